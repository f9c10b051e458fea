-- Prepended to scripts that settle replays; defines resolve_dead_letter.
-- Sets a dead letter to resolved. With a number only while that replay has no outcome: a replay that failed again is
-- marked in the inbox, so that a late copy of it is settled as handled before.
local function resolve_dead_letter(states, replays, letter, number)
  local state = redis.call('HGET', states, letter)
  local last = (redis.call('HGET', replays, letter) or ''):match('^%d+')
  if state and (number == '' or (state == 'replaying' and last == number)) then
    redis.call('HSET', states, letter, 'resolved')
  end
end

