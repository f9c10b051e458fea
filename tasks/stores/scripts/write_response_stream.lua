-- Stands after append_chunk.lua.
-- Promise: what a run says is kept only while it is the one that may write; its end is marked once, and nothing of it
-- comes after. Text and end are one step. Without either, the run vouches for itself.
-- Answers: open, or the mark it ended with; superseded where another run has begun, or none is known.
-- KEYS: stream, open, answer   ARGV: answer id, token, lease in ms, age in ms, length, text, end ('' where it goes on)
local stream, open, answer = KEYS[1], KEYS[2], KEYS[3]
local limits = {age = ARGV[4], length = ARGV[5]}
local known = redis.call('HMGET', answer, 'token', 'state', 'attempt', 'flow')
if known[1] ~= ARGV[2] then
  return 'superseded'
elseif known[2] ~= 'open' then
  return known[2]
end
if ARGV[6] ~= '' then
  put(stream, limits, ARGV[1], known[4], known[3], 'delta', ARGV[6])
end
redis.call('PEXPIRE', answer, limits.age)
if ARGV[7] == '' then
  redis.call('ZADD', open, string.format('%.0f', now_ms() + ARGV[3]), ARGV[1])
  redis.call('PEXPIRE', open, limits.age)
  return 'open'
end
local last = put(stream, limits, ARGV[1], known[4], known[3], ARGV[7], '')
redis.call('HSET', answer, 'state', ARGV[7], 'last', string.format('%.0f', last))
redis.call('ZREM', open, ARGV[1])
return ARGV[7]
