-- Pushes a message to its list, and wakes the consumers that wait for its queue. An unused wake-up key expires: a
-- waiting consumer looks once a second anyway.
-- KEYS: list, wake-up key
-- ARGV: message
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], 0, 0)
redis.call('PEXPIRE', KEYS[2], 10000)
