-- Stands before scripts that publish answers to requests, which call `deliver_reply`.
-- Promise: of all answers to a request, the first that comes from its responder and in time reaches who waits, once; all
-- others are counted. Where nobody waits in a process of its own (reply_to is ''), no answer is late that is the first.
-- Says what became of it: answered, repeated (the same answer as before), late, foreign, duplicate.
local function deliver_reply(table_key, counters, request_id, responder, response_id, text)
  local key = table_key .. ':' .. request_id
  local asked = redis.call('HMGET', key, 'responder', 'reply_to', 'deadline_ms', 'response')
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local outcome = 'delivered'
  if not asked[1] then
    outcome = 'late'
  elseif asked[4] == response_id then
    return 'repeated'
  elseif asked[1] ~= responder then
    outcome = 'wrong_responder'
  elseif asked[4] then
    outcome = 'duplicate'
  elseif asked[2] ~= '' and now > tonumber(asked[3]) then
    outcome = 'late'
  end
  if outcome ~= 'delivered' then
    redis.call('HINCRBY', counters, 'replies_unmatched', 1)
    return outcome
  end
  redis.call('HSET', key, 'response', response_id)
  redis.call('ZREM', table_key, request_id)
  if asked[2] ~= '' then
    redis.call('RPUSH', asked[2], request_id .. '\n' .. text)
    redis.call('PEXPIRE', asked[2], 120000)
  end
  return outcome
end

