-- Promise: of all that enter one session at once, one makes it. An event enters before it is published, and is in the
-- buffer from then on; one that comes after the end is refused, and changes nothing.
-- KEYS: session, live sessions, buffer
-- ARGV: session id, type, event JSON ('' only makes the session, where there is none), buffer's length, time to live in
-- ms, participant id, participant JSON ('' is none)
-- Returns the session, as field and value in turn.
local session, live, buffer = KEYS[1], KEYS[2], KEYS[3]
local id, kind, event, length, age = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local state = redis.call('HGET', session, 'state')
if state == 'ended' or (state and event == '') then
  return redis.call('HGETALL', session)
end
if not state then
  redis.call('HSET', session, 'type', kind, 'state', 'new', 'created', now)
elseif state == 'idle' then
  redis.call('HSET', session, 'state', 'active')
end
-- The clock of a server may be set back; a session's last activity is not.
local last = math.max(now, tonumber(redis.call('HGET', session, 'last') or 0))
redis.call('HSET', session, 'last', string.format('%d', last))
redis.call('ZADD', live, last, id)
if ARGV[7] ~= '' then
  redis.call('HSETNX', session, 'participant:' .. ARGV[6], ARGV[7])
end
if event ~= '' then
  redis.call('RPUSH', buffer, event)
  redis.call('LTRIM', buffer, -length, -1)
  redis.call('PEXPIRE', buffer, age)
end
redis.call('PEXPIRE', session, age)
return redis.call('HGETALL', session)
