-- Promise: the holder is known to live, and of these messages those that it still holds are leased to it anew. A lease
-- that was lost stays lost.
-- KEYS: unacked_index, held, holders   ARGV: holder, tags
-- Returns the tags whose lease is lost.
local holder, lost = ARGV[1], {}
local now = redis.call('TIME')
local time = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('ZADD', KEYS[3], time, holder)
for argument = 2, #ARGV do
  local tag = ARGV[argument]
  -- Both: a stock worker that gives a message back knows nothing of holders.
  if redis.call('HGET', KEYS[2], tag) == holder and redis.call('ZSCORE', KEYS[1], tag) then
    redis.call('ZADD', KEYS[1], time, tag)
  else
    lost[#lost + 1] = tag
  end
end
return lost
