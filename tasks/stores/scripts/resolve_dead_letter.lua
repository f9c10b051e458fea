-- Stands before scripts that settle replays of dead letters, which call `resolve_dead_letter`.
-- Promise: a letter that is kept is noted as resolved; with a number, only while that replay of it has no outcome: what
-- failed again was marked in the inbox, and a late copy of it comes by as handled before.
local function resolve_dead_letter(states, replays, letter, number)
  local state = redis.call('HGET', states, letter)
  local last = (redis.call('HGET', replays, letter) or ''):match('^%d+')
  if state and (number == '' or (state == 'replaying' and last == number)) then
    redis.call('HSET', states, letter, 'resolved')
  end
end

