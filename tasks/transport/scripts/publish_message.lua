-- Promise: a message stands in its list, and whoever waits for its queue is woken. A bell that nobody heard goes away:
-- who waits looks by himself every second.
-- KEYS: list, bell   ARGV: message
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], 0, 0)
redis.call('PEXPIRE', KEYS[2], 10000)
