-- KEYS values, order, ends  ARGV prefix  Returns keys and values in turn, in order of the keys.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
-- No key of ours has a byte of 255: it is not UTF-8.
for _, key in ipairs(redis.call('ZRANGE', KEYS[2], '[' .. ARGV[1], '(' .. ARGV[1] .. '\255', 'BYLEX')) do
  local ends = redis.call('ZSCORE', KEYS[3], key)
  if ends and tonumber(ends) > now then
    found[#found + 1] = key
    found[#found + 1] = redis.call('HGET', KEYS[1], key)
  end
end
return found
