-- Moves a clock on, from now if it lies in the past.
-- KEYS clock  ARGV by how many microseconds  Returns how many it is ahead of now.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local ahead = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') - now, 0) + ARGV[1]
if ahead <= 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000))
return ahead
