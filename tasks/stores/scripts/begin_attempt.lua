-- Record an attempt before its handler starts, unless the delivery is settled, aborted, or has crashed too many
-- workers. An earlier attempt without an outcome counts as a crash if it is recorded as one, or if its consumer was
-- not heard of for 2 s.
-- Returns {'already_settled'}; {'aborted'} where the flow was aborted for this agent, or cancelled; {'running', ms} while another
-- attempt's lease lasts; {'poison', attempt, ...} or {'started', attempt, ...} with the earlier attempts that failed or
-- crashed.
-- KEYS: inbox, attempts, the broker's consumers by time last heard (or ''), aborted (or ''), lease (or '': the broker
--       has leases), cancelled (or '')
-- ARGV: attempt JSON, consumer, max crashes, time to live in ms, length of the lease in ms
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'already_settled'}
end
if KEYS[4] ~= '' and redis.call('EXISTS', KEYS[4], KEYS[6]) > 0 then
  return {'aborted'}
end
local leased_ms = KEYS[5] ~= '' and redis.call('PTTL', KEYS[5]) or 0
if leased_ms > 0 then
  return {'running', tostring(leased_ms)}
end
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local function is_crashed(attempt)
  if attempt.is_crashed or attempt.consumer == '' or KEYS[3] == '' then
    return true
  end
  local heard_at = redis.call('ZSCORE', KEYS[3], attempt.consumer)
  return attempt.consumer ~= ARGV[2] and (not heard_at or tonumber(heard_at) < now - 2)
end
local answer, crashes = {'started'}, 0
for _, text in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  local attempt = cjson.decode(text)
  if attempt.error_type then
    answer[#answer + 1] = text
  elseif is_crashed(attempt) then
    crashes = crashes + 1
    answer[#answer + 1] = text
  end
end
if crashes >= tonumber(ARGV[3]) then
  answer[1] = 'poison'
  return answer
end
-- A full Redis lets a script that has written continue: an attempt that starts may end and free memory.
redis.call('PERSIST', KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if KEYS[5] ~= '' then
  redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[5])
end
return answer
