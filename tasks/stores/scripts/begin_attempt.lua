-- Promise: a run is noted before it begins; none begins of a delivery that is settled, or of which as many workers died as
-- may. A run that did not end counts as a death where it is noted as one, or where its worker was not heard of for 2 s. One
-- that was only taken may never have begun: it counts where one worker died of the delivery at least, and it is the last
-- death that is missing. The one that begins takes its place where it is the same worker's.
-- Answers: {'already_settled'}; {'aborted'} where its agent does no more on its flow; {'poison', run, ...}; {'started', run, ...}: the runs that failed or died before this one.
-- KEYS: inbox mark, runs, the broker's record of who is alive (or ''), aborted mark (or '')   ARGV: run JSON, holder, most deaths, age in ms
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'already_settled'}
end
if KEYS[4] ~= '' and redis.call('EXISTS', KEYS[4]) == 1 then
  return {'aborted'}
end
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local function is_dead(run)
  if run.is_dead or run.holder == '' or KEYS[3] == '' then
    return true
  end
  local heard = redis.call('ZSCORE', KEYS[3], run.holder)
  return run.holder ~= ARGV[2] and (not heard or tonumber(heard) < now - 2)
end
local answer, deaths, own, taken = {'started'}, 0, nil, nil
for place, noted in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  local run = cjson.decode(noted)
  if run.is_taken and run.holder == ARGV[2] then
    own = place - 1
  elseif run.is_taken then
    taken = is_dead(run) and noted
  elseif run.error_type then
    answer[#answer + 1] = noted
  elseif is_dead(run) then
    deaths = deaths + 1
    answer[#answer + 1] = noted
  end
end
if taken and deaths > 0 and deaths + 1 == tonumber(ARGV[3]) then
  deaths = deaths + 1
  table.insert(answer, 2, taken)
end
if deaths >= tonumber(ARGV[3]) then
  answer[1] = 'poison'
  return answer
end
-- A server without memory lets a script go on that has written: what begins may end, and frees some.
redis.call('PERSIST', KEYS[2])
if own then
  redis.call('LSET', KEYS[2], own, ARGV[1])
else
  redis.call('RPUSH', KEYS[2], ARGV[1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return answer
