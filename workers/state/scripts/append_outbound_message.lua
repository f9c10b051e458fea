-- Append a message to a stream, once per message id.
-- KEYS: messages, ids   ARGV: message id, message JSON, time to live in s, length
if redis.call('SADD', KEYS[2], ARGV[1]) == 1 then
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[4], '*', 'reply', ARGV[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
