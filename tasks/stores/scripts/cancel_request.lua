-- Cancel a request of this token, unless it was answered.
-- Returns 0 if it was answered, else 1.
-- KEYS: request, requests   ARGV: request id, token
local known = redis.call('HMGET', KEYS[1], 'token', 'response')
if known[1] ~= ARGV[2] then
  return 1
elseif known[2] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
