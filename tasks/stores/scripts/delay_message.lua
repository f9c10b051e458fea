-- Stands before scripts that let messages wait, which call `delay_message`.
-- Promise: afterwards a message waits under its id, once: the new one where it replaces, else the first.
local function delay_message(due, messages, id, due_ms, value, replaces)
  if redis.call('ZADD', due, 'NX', due_ms, id) == 1 then
    redis.call('HSET', messages, id, value)
  elseif replaces then
    redis.call('ZADD', due, due_ms, id)
    redis.call('HSET', messages, id, value)
  end
end

