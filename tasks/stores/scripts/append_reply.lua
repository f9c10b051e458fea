-- Promise: an answer is put into the list once, however often it is appended under one message id.
-- KEYS: list, ids   ARGV: message id, answer JSON, time to live in s
if redis.call('SADD', KEYS[2], ARGV[1]) == 1 then
  redis.call('RPUSH', KEYS[1], ARGV[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
