-- Delete the reservation of a call that was not made.
-- KEYS: account, calls by the time they stop counting, tokens of calls   ARGV: call
local reserved = tonumber(redis.call('HGET', KEYS[3], ARGV[1]))
if reserved then
  redis.call('HINCRBY', KEYS[1], 'requests', -1)
  -- Not -reserved: of 0 that is -0, which is no integer to the server.
  redis.call('HINCRBY', KEYS[1], 'tokens', string.format('%.0f', 0 - reserved))
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
