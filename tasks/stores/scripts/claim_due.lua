-- Promise: what is due is lent to one caller at a time; it is due again after `lent`, unless it was forgotten by then.
-- KEYS: due times, messages   ARGV: limit, lent in ms, ahead in ms
-- Returns: id, value, until when it is lent (ms), ...
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now + ARGV[3]), 'LIMIT', 0, ARGV[1])
local lent = {}
for _, id in ipairs(due) do
  local value = redis.call('HGET', KEYS[2], id)
  if value then
    local back = string.format('%.0f', now + ARGV[2])
    lent[#lent + 1], lent[#lent + 2], lent[#lent + 3] = id, value, back
    redis.call('ZADD', KEYS[1], back, id)
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return lent
