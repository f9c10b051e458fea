-- Promise: says which messages have been unacked for longer than `age`, oldest first; changes nothing that is held.
-- KEYS: unacked, unacked_index   ARGV: age in seconds, how many at most
-- Returns: the time before which they were taken, then tag, entry, tag, entry, ...
local now = redis.call('TIME')
local before = now[1] + now[2] / 1000000 - tonumber(ARGV[1])
local found, bytes = { string.format('%.6f', before) }, 0
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', found[1], 'LIMIT', 0, ARGV[2])) do
  local entry = redis.call('HGET', KEYS[1], tag)
  if bytes >= 4194304 then
    break
  end
  if entry then
    bytes = bytes + #entry
    found[#found + 1], found[#found + 2] = tag, entry
  else
    redis.call('ZREM', KEYS[2], tag)
  end
end
return found
