-- Makes a log, or makes one anew that Redis has lost ("again"): then a log that was forgotten on purpose stays so.
-- KEYS meta, log  ARGV nonce, node, owner, data, trim ("" for none), plan, ttl in ms, head, "again" or ""
-- Returns 1 made (also by an earlier try of the same call), 0 there is one already.
local nonce, node, owner, data, trim, plan, ttl, head, again = unpack(ARGV)
local born = redis.call('HGET', KEYS[1], 'born')
if born then
  return born == nonce and 1 or 0
end
if again == 'again' and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'born', nonce, 'node', node, 'owner', owner, 'data', data, 'head', head, 'plan', plan)
if trim ~= '' then
  redis.call('HSET', KEYS[1], 'trim', trim, 'weight', '0')
end
redis.call('PEXPIRE', KEYS[1], ttl)
return 1
