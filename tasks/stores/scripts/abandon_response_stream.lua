-- Needs append_chunk.lua.
-- Mark an attempt as abandoned if its lease has expired, once, by any reader.
-- Returns the state of the response; '' if none is known.
-- KEYS: stream, open responses, response   ARGV: response id, age in ms, length
local known = redis.call('HMGET', KEYS[3], 'state', 'attempt', 'flow')
if known[1] ~= 'open' then
  return known[1] or ''
end
local leased_until = redis.call('ZSCORE', KEYS[2], ARGV[1])
if leased_until and tonumber(leased_until) >= now_ms() then
  return 'open'
end
append_chunk(KEYS[1], {age = ARGV[2], length = ARGV[3]}, ARGV[1], known[3], known[2], 'abandoned', '')
redis.call('HSET', KEYS[3], 'state', 'abandoned')
redis.call('ZREM', KEYS[2], ARGV[1])
return 'abandoned'
