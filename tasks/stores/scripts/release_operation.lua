-- Promise: an effect that is not done is as if it had never begun, where it was begun with that token.
-- KEYS: effect   ARGV: token
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] and redis.call('HEXISTS', KEYS[1], 'outcome') == 0 then
  return redis.call('DEL', KEYS[1])
end
return 0
