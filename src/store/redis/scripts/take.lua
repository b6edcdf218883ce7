-- Hands a running log from one node to another; of all who try, one wins.
-- KEYS meta  ARGV from, to
-- Returns {1, head, plan} taken (also by an earlier try), {2} another's, {3} over or gone.
local m = redis.call('HMGET', KEYS[1], 'born', 'sealed', 'node', 'head', 'plan')
if not m[1] or m[2] then
  return { 3 }
end
if m[3] ~= ARGV[1] and m[3] ~= ARGV[2] then
  return { 2 }
end
redis.call('HSET', KEYS[1], 'node', ARGV[2])
return { 1, m[4], m[5] or '' }
