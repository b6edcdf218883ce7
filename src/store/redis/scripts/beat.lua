-- Renews a node's lease.
-- KEYS leases  ARGV node, lease in ms
-- Returns 1 if it had not run out; else others may have taken what the node wrote, or Redis has lost it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
return ends and tonumber(ends) > now and 1 or 0
