-- Pushes a message of a Celery client to its list, and wakes the consumers that wait for its queue.
-- KEYS: list, wake-up key
-- ARGV: message
if redis.call('LPUSH', KEYS[1], ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[2], 0, 0)
end
