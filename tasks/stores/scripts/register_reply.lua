-- Prepended to scripts that make requests; defines register_reply.
-- Registers a pending request. Returns false if the id is pending under another token. Removes overdue requests, whose
-- requesters have crashed, from the table.
local function register_reply(table_key, request_id, responder, reply_to, timeout_ms, margin_ms, token)
  local key = table_key .. ':' .. request_id
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local known = redis.call('HMGET', key, 'deadline_ms', 'response', 'token')
  if known[1] and known[3] ~= token and not known[2] and tonumber(known[1]) > now then
    return false
  elseif known[3] == token and known[2] then
    return true
  end
  local deadline = string.format('%.0f', now + timeout_ms)
  redis.call('DEL', key)
  redis.call('HSET', key, 'responder', responder, 'reply_to', reply_to, 'deadline_ms', deadline, 'token', token)
  redis.call('PEXPIRE', key, string.format('%.0f', timeout_ms + margin_ms))
  redis.call('ZREMRANGEBYSCORE', table_key, '-inf', string.format('%.0f', now))
  redis.call('ZADD', table_key, deadline, request_id)
  return true
end

