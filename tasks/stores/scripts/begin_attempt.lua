-- Record an attempt before its handler starts, unless the delivery is settled, aborted, or has crashed too many
-- workers. An earlier attempt without an outcome counts as a crash if it is recorded as one, or if its consumer was
-- not heard of for 2 s. An attempt that was only fetched may never have started: it counts only if the delivery has
-- crashed a worker before and this would be the last crash allowed. A new attempt of the same consumer replaces its
-- fetched one.
-- Returns {'already_settled'}; {'aborted'} where the flow was aborted for this agent; {'poison', attempt, ...} or
-- {'started', attempt, ...} with the earlier attempts that failed or crashed.
-- KEYS: inbox, attempts, the broker's consumers by time last heard (or ''), aborted (or '')
-- ARGV: attempt JSON, consumer, max crashes, time to live in ms
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'already_settled'}
end
if KEYS[4] ~= '' and redis.call('EXISTS', KEYS[4]) == 1 then
  return {'aborted'}
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
local answer, crashes, own, fetched = {'started'}, 0, nil, nil
for place, text in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  local attempt = cjson.decode(text)
  if attempt.is_fetched and attempt.consumer == ARGV[2] then
    own = place - 1
  elseif attempt.is_fetched then
    fetched = is_crashed(attempt) and text
  elseif attempt.error_type then
    answer[#answer + 1] = text
  elseif is_crashed(attempt) then
    crashes = crashes + 1
    answer[#answer + 1] = text
  end
end
if fetched and crashes > 0 and crashes + 1 == tonumber(ARGV[3]) then
  crashes = crashes + 1
  table.insert(answer, 2, fetched)
end
if crashes >= tonumber(ARGV[3]) then
  answer[1] = 'poison'
  return answer
end
-- A full Redis lets a script that has written continue: an attempt that starts may end and free memory.
redis.call('PERSIST', KEYS[2])
if own then
  redis.call('LSET', KEYS[2], own, ARGV[1])
else
  redis.call('RPUSH', KEYS[2], ARGV[1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return answer
