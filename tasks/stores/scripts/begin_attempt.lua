-- Promise: a run is noted before it begins; none begins of a delivery that is settled, or of which as many workers died as
-- may. A run that did not end counts as a death where it is noted as one, or where its worker was not heard of for 2 s.
-- Answers: {'settled'}; {'aborted'} where its agent does no more on its flow; {'poison', run, ...}; {'begun', run, ...}: the runs that failed or died before this one.
-- KEYS: inbox mark, runs, the broker's record of who is alive (or ''), aborted mark (or '')   ARGV: run JSON, holder, most deaths, age in ms
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'settled'}
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
local answer, deaths = {'begun'}, 0
for _, noted in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  local run = cjson.decode(noted)
  if run.error_type then
    answer[#answer + 1] = noted
  elseif is_dead(run) then
    deaths = deaths + 1
    answer[#answer + 1] = noted
  end
end
if deaths >= tonumber(ARGV[3]) then
  answer[1] = 'poison'
  return answer
end
-- A server without memory lets a script go on that has written: what begins may end, and frees some.
redis.call('PERSIST', KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return answer
