-- Pushes a message of a Celery client to its list, and wakes the consumers that wait for its queue.
-- No KEYS: the server wants the right to read those, and a publisher need not read a queue.
-- ARGV: list, wake-up key, message
if redis.call('LPUSH', ARGV[1], ARGV[3]) == 1 then
  redis.call('ZADD', ARGV[2], 0, 0)
end
