-- Replace a dead letter by its edited successor, in one step. Safe to repeat.
-- Returns 'edited', 'deleted', or the state that forbids it.
-- KEYS: dead letters, times, states
-- ARGV: letter id, id of the successor, successor JSON, time of dead-lettering in ms
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 'deleted'
end
local state = redis.call('HGET', KEYS[3], ARGV[1])
if state == 'replaced' and redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 then
  return 'edited'
end
if state ~= 'pending' and state ~= 'failed_again' then
  return state or 'deleted'
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[2])
redis.call('HSET', KEYS[3], ARGV[2], 'pending')
redis.call('HSET', KEYS[3], ARGV[1], 'replaced')
return 'edited'
