-- Store a memory once under its key, unless a consolidation removed it or it is older than one that was dropped.
-- `removed` holds the removed keys, and under '' the time up to which memories were dropped.
-- Returns 1 if it is new.
-- KEYS: times, texts, removed, consolidation queue
-- ARGV: key, when it was said in s, JSON text, most to keep, time to live in ms, stream
local key, at = ARGV[1], ARGV[2]
local floor = redis.call('ZSCORE', KEYS[3], '')
if redis.call('ZSCORE', KEYS[1], key) or redis.call('ZSCORE', KEYS[3], key)
  or (floor and tonumber(at) <= tonumber(floor)) then
  return 0
end
redis.call('ZADD', KEYS[1], at, key)
redis.call('HSET', KEYS[2], key, ARGV[3])
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[4])
if over > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[1], over)
  for place = 1, #oldest, 2 do
    redis.call('HDEL', KEYS[2], oldest[place])
    redis.call('ZADD', KEYS[3], oldest[place + 1], '')
  end
end
for place = 1, 3 do
  redis.call('PEXPIRE', KEYS[place], ARGV[5])
end
redis.call('SADD', KEYS[4], ARGV[6])
return 1
