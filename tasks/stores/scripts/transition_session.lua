-- Promise: a session goes from one state to another in one step, and only from a state that this move is allowed from.
-- What was kept for a session is deleted in the step that ends it, and it stays among the live ones, as the first of
-- them, until somebody notes that its end was told.
-- KEYS: session, live sessions, buffer, memory
-- ARGV: session id, state to go to, reason of an end, time to live in ms, idle since ms ('' is whatever), states from
-- which it is allowed ...
-- Returns whether it went there, and the state that it is in, '' where there is no such session.
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
