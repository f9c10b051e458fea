-- Count a call with the tokens it used, for one window from now, also after its lease.
-- KEYS: account, calls by the time they stop counting, tokens of calls
-- ARGV: call, tokens ('': as reserved), window in ms, clock offset in ms
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[4]
local function text(number) return string.format('%.0f', number) end
local reserved = tonumber(redis.call('HGET', KEYS[3], ARGV[1]))
local used = tonumber(ARGV[2]) or reserved or 0
if not reserved then
  redis.call('HINCRBY', KEYS[1], 'requests', 1)
end
redis.call('HINCRBY', KEYS[1], 'tokens', text(used - (reserved or 0)))
redis.call('HSET', KEYS[3], ARGV[1], text(used))
-- Plus 1 ms, because the clock is rounded down.
redis.call('ZADD', KEYS[2], text(now_ms + ARGV[3] + 1), ARGV[1])
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, text(math.max(ARGV[3] * 2, redis.call('PTTL', key))))
end
