-- Stands after append_chunk.lua.
-- Promise: a run that nobody vouches for any more is marked as lost, once, whoever of its readers notices.
-- Answers: the state of the answer; '' where none is known.
-- KEYS: stream, open, answer   ARGV: answer id, age in ms, length
local known = redis.call('HMGET', KEYS[3], 'state', 'attempt', 'flow')
if known[1] ~= 'open' then
  return known[1] or ''
end
local vouched_until = redis.call('ZSCORE', KEYS[2], ARGV[1])
if vouched_until and tonumber(vouched_until) >= now_ms() then
  return 'open'
end
put(KEYS[1], {age = ARGV[2], length = ARGV[3]}, ARGV[1], known[3], known[2], 'abandoned', '')
redis.call('HSET', KEYS[3], 'state', 'abandoned')
redis.call('ZREM', KEYS[2], ARGV[1])
return 'abandoned'
