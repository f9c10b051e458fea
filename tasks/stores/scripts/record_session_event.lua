-- Append an event to a session's buffer; concurrent first events create one session. Events are recorded before they
-- are published. An ended session stays unchanged.
-- Returns the session, as field and value in turn.
-- KEYS: session, sessions, buffer
-- ARGV: session id, type, event JSON ('' only creates the session), buffer's length, time to live in ms,
--       participant id, participant JSON ('': none)
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
-- The server's clock may be set back; the last activity must not.
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
