-- Change a session's state if its current state allows it. The step that ends a session deletes its buffer and memory;
-- the session stays listed first, with score 0, until its end is published.
-- Returns whether the state changed, and the state, '' if there is no such session.
-- KEYS: session, sessions, buffer, memory
-- ARGV: session id, new state, reason of an end, time to live in ms, idle since ms ('': any), allowed current states
-- ...
local session, live, id, to = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local state = redis.call('HGET', session, 'state')
if not state then
  redis.call('ZREM', live, id)
  return {0, ''}
end
local last = tonumber(redis.call('HGET', session, 'last'))
if ARGV[5] ~= '' and last > tonumber(ARGV[5]) then
  return {0, state}
end
for place = 6, #ARGV do
  if ARGV[place] == state then
    redis.call('HSET', session, 'state', to)
    if to == 'ended' then
      local clock = redis.call('TIME')
      local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
      redis.call('HSET', session, 'ended', string.format('%d', math.max(now, last)), 'reason', ARGV[3])
      redis.call('HDEL', session, 'memory_bytes')
      redis.call('DEL', KEYS[3], KEYS[4])
      redis.call('ZADD', live, 0, id)
    end
    redis.call('PEXPIRE', session, ARGV[4])
    return {1, to}
  end
end
return {0, state}
