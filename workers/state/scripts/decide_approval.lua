-- Decide a pending approval; of all concurrent callers one decides, and the decision stays.
-- Returns 'decided', 'late' if it has expired, 'already_decided' or 'not_found'.
-- KEYS: approval   ARGV: state, operator, reason, 1 if it must not have expired, age of the decision in ms
local known = redis.call('HMGET', KEYS[1], 'state', 'expires_ms')
if not known[1] then
  return 'not_found'
elseif known[1] ~= 'pending' then
  return 'already_decided'
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[4] == '1' and now_ms >= tonumber(known[2]) then
  return 'late'
end
local decided_ms = string.format('%.0f', now_ms)
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'by', ARGV[2], 'reason', ARGV[3], 'decided_ms', decided_ms)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 'decided'
