-- Stands before scripts that keep dead letters, which call `dead_letter`.
-- Promise: afterwards the letter is kept, as pending, or as failed again where it was replayed before.
local function dead_letter(letters, times, states, id, letter, ms)
  redis.call('HSET', letters, id, letter)
  redis.call('ZADD', times, ms, id)
  local state = redis.call('HGET', states, id)
  redis.call('HSET', states, id, state and state ~= 'pending' and 'failed_again' or 'pending')
end

