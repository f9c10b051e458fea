-- Store a dead letter with its state and replay, unless its id exists. Returns 1 or 0.
-- KEYS: dead letters, times, states, replays
-- ARGV: letter id, letter JSON, time of dead-lettering in ms, state, its last replay ('': none)
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[1], ARGV[5])
end
return 1
