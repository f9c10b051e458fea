-- Delete the dead letters that are still in the given state and were not dead-lettered again meanwhile.
-- Returns 1 or 0 for each.
-- KEYS: dead letters, times, states, replays
-- ARGV: for each: letter id, state, time of dead-lettering in ms ('': any)
local answer = {}
for index = 1, #ARGV, 3 do
  local letter, when = ARGV[index], redis.call('ZSCORE', KEYS[2], ARGV[index])
  local is_same = (redis.call('HGET', KEYS[3], letter) or 'pending') == ARGV[index + 1]
  if when and is_same and (ARGV[index + 2] == '' or tonumber(when) == tonumber(ARGV[index + 2])) then
    redis.call('HDEL', KEYS[1], letter)
    redis.call('ZREM', KEYS[2], letter)
    redis.call('HDEL', KEYS[3], letter)
    redis.call('HDEL', KEYS[4], letter)
    answer[#answer + 1] = 1
  else
    answer[#answer + 1] = 0
  end
end
return answer
