-- Deny reservations of an account until a time; of several pauses the longest applies.
-- KEYS: account   ARGV: ms, clock offset in ms
local clock = redis.call('TIME')
local until_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[2] + ARGV[1]
if until_ms > (tonumber(redis.call('HGET', KEYS[1], 'paused_until_ms')) or 0) then
  redis.call('HSET', KEYS[1], 'paused_until_ms', string.format('%.0f', until_ms))
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(ARGV[1] * 2, redis.call('PTTL', KEYS[1]))))
