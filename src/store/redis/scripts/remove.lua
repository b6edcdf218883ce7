-- Forgets a log, and for a while remembers that it was forgotten: whoever writes it would take it for lost.
-- KEYS meta, log  ARGV how long in ms, channel, message
local known = redis.call('HEXISTS', KEYS[1], 'born')
redis.call('DEL', KEYS[1], KEYS[2])
if known == 1 then
  redis.call('HSET', KEYS[1], 'forgotten', '1')
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  redis.call('SPUBLISH', ARGV[2], ARGV[3])
end
return known
