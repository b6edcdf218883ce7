-- Lists a log as written by a node, or by nobody.
-- KEYS logs of the node  ARGV log
return redis.call('SADD', KEYS[1], ARGV[1])
