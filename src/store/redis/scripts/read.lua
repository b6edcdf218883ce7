-- A page of a log, together with what is true of it at that moment.
-- KEYS meta, log  ARGV first id (inclusive, "-" for the start), count
-- Returns {1, sealed, trimmed, owner, data, trim, ttl in ms, entries} or {0, 1 if it was forgotten}
local m = redis.call('HMGET', KEYS[1], 'born', 'sealed', 'trimmed', 'owner', 'data', 'trim')
if not m[1] then
  return { 0, redis.call('EXISTS', KEYS[1]) }
end
return {
  1, m[2] and 1 or 0, m[3] or '0-0', m[4], m[5], m[6] or '',
  redis.call('PTTL', KEYS[1]),
  redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', ARGV[2]),
}
