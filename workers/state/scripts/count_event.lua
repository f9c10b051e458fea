-- Count an event; once per cooldown, the event that reaches the threshold has to report it. The same event again gets
-- the same answer while the keys are kept.
-- Returns the count within the window if this event reports it, else 0.
-- KEYS: counted events, reported events
-- ARGV: event, its time in s, window in s, cooldown in s, threshold, most to keep, time to live in ms
local event, at, window, cooldown = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('ZADD', KEYS[1], ARGV[2], event)
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.6f', tonumber(newest) - window))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[6]) - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[7])
-- In both directions, because events may be counted in any order.
local count = redis.call('ZCOUNT', KEYS[1], string.format('%.6f', at - window), string.format('%.6f', at + window))
if count < tonumber(ARGV[5]) then
  return 0
end
if redis.call('ZSCORE', KEYS[2], event) then
  return count
end
if redis.call('ZCOUNT', KEYS[2], string.format('(%.6f', at - cooldown), string.format('(%.6f', at + cooldown)) > 0 then
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[2], event)
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -tonumber(ARGV[6]) - 1)
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return count
