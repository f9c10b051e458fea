-- Delete a claimed message that was sent, unless another message waits under its id by now: the sent one may have been
-- handled, failed and scheduled again before this call.
-- KEYS: delayed, delayed:messages   ARGV: id, end of the claim in ms
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) == tonumber(ARGV[2]) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return 1
