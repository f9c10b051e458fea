-- Promise: a call that was not made does not count.
-- KEYS: account, calls by when they are forgotten, tokens of calls   ARGV: call
local reserved = tonumber(redis.call('HGET', KEYS[3], ARGV[1]))
if reserved then
  redis.call('HINCRBY', KEYS[1], 'requests', -1)
  redis.call('HINCRBY', KEYS[1], 'tokens', string.format('%.0f', -reserved))
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
