-- Delete memories for good: storing them again under the same keys has no effect.
-- KEYS: times, texts, removed
-- ARGV: time to live in ms, the time up to which memories were dropped ('': none), then key and time of each
local floor = ARGV[2]
for place = 3, #ARGV, 2 do
  redis.call('ZREM', KEYS[1], ARGV[place])
  redis.call('HDEL', KEYS[2], ARGV[place])
  redis.call('ZADD', KEYS[3], ARGV[place + 1], ARGV[place])
end
if floor ~= '' then
  redis.call('ZADD', KEYS[3], 'GT', floor, '')
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. floor)
end
redis.call('PEXPIRE', KEYS[3], ARGV[1])
return 1
