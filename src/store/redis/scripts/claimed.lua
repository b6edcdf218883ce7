-- KEYS values, ends  ARGV key  Returns the value, or nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
return ends and tonumber(ends) > now and redis.call('HGET', KEYS[1], ARGV[1])
