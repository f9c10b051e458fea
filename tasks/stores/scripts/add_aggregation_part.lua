-- Promise: of each part of a gathering the first that came is kept, unless the gathering was closed before.
-- KEYS: gathering   ARGV: part's number, JSON text, number of parts, time to live in ms
-- Returns 'completed', 'complete' or 'incomplete'.
if redis.call('HEXISTS', KEYS[1], 'completed') == 1 then
  return 'completed'
end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) and 'complete' or 'incomplete'
