-- One atomic append: compare, fence, add, trim, seal, renew, tell.
-- KEYS meta, log
-- ARGV node, nonce, expected head, epoch, "seal" or "", ttl in ms, channel, head of the message, then the records
-- Returns {code, head}: 0 accepted (also by an earlier try of the same call), 1 stale, 2 closed, 3 lost, 4 forgotten,
-- 5 another node's.
local node, nonce, expected, epoch, seal, ttl, channel, message = unpack(ARGV, 1, 8)
local m = redis.call('HMGET', KEYS[1], 'born', 'head', 'sealed', 'node', 'trim', 'weight')
if not m[1] then
  return { redis.call('EXISTS', KEYS[1]) == 1 and 4 or 3, '0-0' }
end
local head, sealed, writer, trim = m[2], m[3], m[4], m[5]
local count = #ARGV - 8
local function id(seq)
  return epoch .. '-' .. string.format('%.0f', seq)
end
if sealed then
  return { sealed == nonce and 0 or 2, head }
end
local head_epoch, head_seq = string.match(head, '^(%d+)%-(%d+)$')
if head ~= expected or tonumber(epoch) < tonumber(head_epoch) then
  local expected_seq = tonumber(string.match(expected, '%-(%d+)$'))
  if count > 0 then
    local first = id(expected_seq + 1)
    local entry = redis.call('XRANGE', KEYS[2], first, first)[1]
    if entry and entry[2][4] == nonce then
      return { 0, id(expected_seq + count) }
    end
  end
end
if writer ~= '' and writer ~= node then
  -- Only who comes with a later epoch may go on with what another node writes.
  if tonumber(epoch) <= tonumber(head_epoch) then
    return { 5, head }
  end
end
if head ~= expected or tonumber(epoch) < tonumber(head_epoch) then
  return { 1, head }
end
if writer ~= '' and writer ~= node then
  redis.call('HSET', KEYS[1], 'node', node)
end
local seq, weight = tonumber(head_seq), tonumber(m[6] or '0')
for i = 9, #ARGV do
  seq = seq + 1
  head = id(seq)
  if i == 9 then
    redis.call('XADD', KEYS[2], head, 'd', ARGV[i], 'n', nonce)
  else
    redis.call('XADD', KEYS[2], head, 'd', ARGV[i])
  end
  weight = weight + struct.unpack('>I4', ARGV[i])
end
redis.call('HSET', KEYS[1], 'head', head)
if trim then
  local trimmed
  while weight > tonumber(trim) do
    local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    if not oldest then
      break
    end
    weight = weight - struct.unpack('>I4', oldest[2][2])
    trimmed = oldest[1]
    redis.call('XDEL', KEYS[2], trimmed)
  end
  redis.call('HSET', KEYS[1], 'weight', string.format('%.0f', weight))
  if trimmed then
    redis.call('HSET', KEYS[1], 'trimmed', trimmed)
  end
end
if seal == 'seal' then
  redis.call('HSET', KEYS[1], 'sealed', nonce)
  redis.call('HDEL', KEYS[1], 'plan')
end
-- The first record makes the key. What has one writer is renewed by that now and then, and not here.
if trim or seal == 'seal' or head_seq == '0' then
  redis.call('PEXPIRE', KEYS[1], ttl)
  redis.call('PEXPIRE', KEYS[2], ttl)
end
if count > 0 or seal == 'seal' then
  redis.call('SPUBLISH', channel, message .. table.concat(ARGV, '', 9))
end
return { 0, head }
