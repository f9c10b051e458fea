-- Promise: what was lent is forgotten, unless another message waits under its id by now: what was sent on may have been
-- handled, failed, and put here again, before this is said.
-- KEYS: due times, messages   ARGV: id, until when it was lent in ms
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) == tonumber(ARGV[2]) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return 1
