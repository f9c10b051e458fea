-- Promise: each answer in a stream's log is handed to one of those who take, in order.
-- KEYS: log, place of the last one taken   ARGV: time to live in s
-- Returns the answer's JSON, nothing where all were taken.
local after = redis.call('GET', KEYS[2])
local found = redis.call('XRANGE', KEYS[1], after and '(' .. after or '-', '+', 'COUNT', 1)
if #found == 0 then
  return false
end
redis.call('SET', KEYS[2], found[1][1], 'EX', ARGV[1])
return found[1][2][2]
