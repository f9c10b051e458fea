-- Promise: a request is either answered or given up, never both; by nobody but who asked.
-- KEYS: request, table of all that are waited for   ARGV: request id, token
-- Returns 1 where it is not waited for (any more), 0 where it was answered before.
local known = redis.call('HMGET', KEYS[1], 'token', 'response')
if known[1] ~= ARGV[2] then
  return 1
elseif known[2] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
