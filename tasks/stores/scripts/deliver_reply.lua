-- Prepended to scripts that publish replies; defines deliver_reply.
-- Delivers the first reply in time from the request's responder, once; all others are counted. Without a waiting
-- process (reply_to is '') the first reply is never late.
-- Returns delivered, repeated (the same reply again), late, wrong_responder or duplicate.
local function deliver_reply(table_key, counters, request_id, responder, response_id, text)
  local key = table_key .. ':' .. request_id
  local request = redis.call('HMGET', key, 'responder', 'reply_to', 'deadline_ms', 'response')
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local outcome = 'delivered'
  if not request[1] then
    outcome = 'late'
  elseif request[4] == response_id then
    return 'repeated'
  elseif request[1] ~= responder then
    outcome = 'wrong_responder'
  elseif request[4] then
    outcome = 'duplicate'
  elseif request[2] ~= '' and now >= tonumber(request[3]) then
    outcome = 'late'
  end
  if outcome ~= 'delivered' then
    redis.call('HINCRBY', counters, 'replies_unmatched', 1)
    return outcome
  end
  redis.call('HSET', key, 'response', response_id)
  redis.call('ZREM', table_key, request_id)
  if request[2] ~= '' then
    redis.call('RPUSH', request[2], request_id .. '\n' .. text)
    redis.call('PEXPIRE', request[2], 120000)
  end
  return outcome
end

