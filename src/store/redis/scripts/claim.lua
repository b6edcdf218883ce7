-- Holds a key for a time, unless somebody does already.
-- KEYS values, order, ends  ARGV key, value, ttl in ms
-- Returns {1} won, {0, value} held.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- What is over is cleared away by those who come later, a few at a time.
for _, key in ipairs(redis.call('ZRANGE', KEYS[3], '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, 16)) do
  redis.call('ZREM', KEYS[3], key)
  redis.call('ZREM', KEYS[2], key)
  redis.call('HDEL', KEYS[1], key)
end
local ends = redis.call('ZSCORE', KEYS[3], ARGV[1])
if ends and tonumber(ends) > now then
  local held = redis.call('HGET', KEYS[1], ARGV[1])
  if held ~= ARGV[2] then
    return { 0, held }
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('ZADD', KEYS[3], string.format('%.0f', now + ARGV[3]), ARGV[1])
return { 1 }
