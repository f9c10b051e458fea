-- Move up to `limit` due messages to their queues, oldest first. A stored message is queue, list and message, separated
-- by line feeds; the first two have none.
-- Returns how many moved.
-- KEYS: delayed, delayed:messages   ARGV: limit
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local value = redis.call('HGET', KEYS[2], id)
  if value then
    local queue, list, message = value:match('^(.-)\n(.-)\n(.*)$')
    redis.call('LPUSH', list, message)
    redis.call('ZADD', queue .. '\6\022wakeup', 0, 0)
    redis.call('PEXPIRE', queue .. '\6\022wakeup', 10000)
  end
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
return #due
