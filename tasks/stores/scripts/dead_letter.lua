-- Prepended to scripts that store dead letters; defines dead_letter.
-- Stores a letter as pending, or as failed_again if its id was replayed before.
local function dead_letter(letters, times, states, id, letter, ms)
  redis.call('HSET', letters, id, letter)
  redis.call('ZADD', times, ms, id)
  local state = redis.call('HGET', states, id)
  redis.call('HSET', states, id, state and state ~= 'pending' and 'failed_again' or 'pending')
end

