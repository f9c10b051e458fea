-- Promise: a request is either answered or given up, never both.
-- KEYS: request, table of all that are waited for   ARGV: request id
-- Returns 1 where it is given up by this, 0 where it was answered before.
if redis.call('HEXISTS', KEYS[1], 'response') == 1 then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
