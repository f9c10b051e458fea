-- Needs append_chunk.lua.
-- Append text, the end, or both in one step, while the attempt may write; without either only renew its lease. The end
-- is written once, and nothing of the attempt follows it.
-- Returns open or the end; superseded if another attempt has started or none is known.
-- KEYS: stream, open responses, response
-- ARGV: response id, token, lease in ms, age in ms, length, text, end ('' if it continues)
local stream, open, answer = KEYS[1], KEYS[2], KEYS[3]
local limits = {age = ARGV[4], length = ARGV[5]}
local known = redis.call('HMGET', answer, 'token', 'state', 'attempt', 'flow')
if known[1] ~= ARGV[2] then
  return 'superseded'
elseif known[2] ~= 'open' then
  return known[2]
end
if ARGV[6] ~= '' then
  append_chunk(stream, limits, ARGV[1], known[4], known[3], 'delta', ARGV[6])
end
redis.call('PEXPIRE', answer, limits.age)
if ARGV[7] == '' then
  redis.call('ZADD', open, string.format('%.0f', now_ms() + ARGV[3]), ARGV[1])
  redis.call('PEXPIRE', open, limits.age)
  return 'open'
end
local last = append_chunk(stream, limits, ARGV[1], known[4], known[3], ARGV[7], '')
redis.call('HSET', answer, 'state', ARGV[7], 'last', string.format('%.0f', last))
redis.call('ZREM', open, ARGV[1])
return ARGV[7]
