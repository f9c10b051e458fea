-- Records a heartbeat of the consumer, and renews those of its leases that it still has. A lost lease stays lost.
-- KEYS: unacked_index, leased, consumers
-- ARGV: consumer, tags
-- Returns the tags whose lease is lost.
local consumer, lost = ARGV[1], {}
local now = redis.call('TIME')
local time = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('ZADD', KEYS[3], time, consumer)
for index = 2, #ARGV do
  local tag = ARGV[index]
  -- Both are checked: a stock worker that requeues a message leaves the hash `leased` unchanged.
  if redis.call('HGET', KEYS[2], tag) == consumer and redis.call('ZSCORE', KEYS[1], tag) then
    redis.call('ZADD', KEYS[1], time, tag)
  else
    lost[#lost + 1] = tag
  end
end
return lost
