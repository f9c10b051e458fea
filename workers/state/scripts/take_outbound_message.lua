-- Take the oldest message that was not taken; each goes to one caller, in order.
-- Returns the message's JSON, or nothing.
-- KEYS: messages, cursor   ARGV: time to live in s
local after = redis.call('GET', KEYS[2])
local found = redis.call('XRANGE', KEYS[1], after and '(' .. after or '-', '+', 'COUNT', 1)
if #found == 0 then
  return false
end
redis.call('SET', KEYS[2], found[1][1], 'EX', ARGV[1])
return found[1][2][2]
