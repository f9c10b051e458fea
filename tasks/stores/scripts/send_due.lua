-- Promise: of what is due, up to `limit` messages, oldest first, stand in their queues and wait no longer.
-- What waits is "queue, list, message", parted by line ends, which neither of the first two holds.
-- KEYS: due times, messages   ARGV: limit
-- Returns how many moved.
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
