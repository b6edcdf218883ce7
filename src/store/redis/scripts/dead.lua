-- The nodes whose lease has run out, and some of the logs that were left to anybody.
-- KEYS leases, logs of nobody  ARGV how many logs
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {
  redis.call('ZRANGE', KEYS[1], '-inf', string.format('%.0f', now), 'BYSCORE'),
  redis.call('SRANDMEMBER', KEYS[2], ARGV[1]),
}
