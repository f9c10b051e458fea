-- Moves up to `limit` due messages to their queues, oldest first. A stored message is the queue's wake-up key, its list
-- and the message, separated by line feeds; the first two have none.
-- Returns how many moved.
-- KEYS: delayed, delayed:messages   ARGV: limit
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
-- Deletes nothing: a full server lets a script that has written continue.
redis.call('HDEL', KEYS[2], '')
for _, id in ipairs(due) do
  local value = redis.call('HGET', KEYS[2], id)
  if value then
    local wakeup, list, message = value:match('^(.-)\n(.-)\n(.*)$')
    if redis.call('LPUSH', list, message) == 1 then
      redis.call('ZADD', wakeup, 0, 0)
    end
  end
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
return #due
