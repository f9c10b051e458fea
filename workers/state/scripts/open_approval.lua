-- Store a requested approval, once. Removes entries older than `age` from the index.
-- KEYS: approval, approvals   ARGV: id, request JSON, expiry in ms since 1970, age in ms
if redis.call('EXISTS', KEYS[1]) == 1 then
  return
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HSET', KEYS[1], 'request', ARGV[2], 'expires_ms', ARGV[3], 'state', 'pending')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now_ms - ARGV[4]))
redis.call('ZADD', KEYS[2], string.format('%.0f', now_ms), ARGV[1])
