-- Prepended to scripts that delay messages; defines delay_message.
-- Stores a message under its id. If the id waits already, the new message replaces it only with `replaces`.
local function delay_message(due, messages, id, due_ms, value, replaces)
  if redis.call('ZADD', due, 'NX', due_ms, id) == 1 then
    redis.call('HSET', messages, id, value)
  elseif replaces then
    redis.call('ZADD', due, due_ms, id)
    redis.call('HSET', messages, id, value)
  end
end

