-- What an append does, for nobody but its sender.
-- KEYS log  ARGV channel, message
redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'd', ARGV[2])
redis.call('PEXPIRE', KEYS[1], 60000)
redis.call('SPUBLISH', ARGV[1], ARGV[2])
return 1
