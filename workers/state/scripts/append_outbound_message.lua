-- Promise: an answer is put at the end of a stream's log once, however often it is appended under one message id.
-- KEYS: log, ids   ARGV: message id, answer JSON, time to live in s, length of the log
if redis.call('SADD', KEYS[2], ARGV[1]) == 1 then
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[4], '*', 'reply', ARGV[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
