-- Increment an integer in a session's working memory in one step. A value of another type stays unchanged.
-- Returns 'stored' with the new number, 'full' with the size it would have, 'ended', 'not_found' or 'not_a_number'.
-- KEYS: session, sessions, memory
-- ARGV: session id, limit in bytes, time to live in ms, name, increment (an integer)
local session, memory, name = KEYS[1], KEYS[3], ARGV[4]
local state = redis.call('HGET', session, 'state')
if not state then
  return {'not_found', ''}
end
if state == 'ended' then
  return {'ended', ''}
end
local earlier = redis.call('HGET', memory, name)
local number = redis.pcall('HINCRBY', memory, name, ARGV[5])
if type(number) == 'table' then
  return {'not_a_number', earlier or ''}
end
-- Read back: beyond 2^53 a number of Lua's is not the server's.
local after = redis.call('HGET', memory, name)
local size = tonumber(redis.call('HGET', session, 'memory_bytes') or 0)
local grown = size + #after - (earlier and #earlier or -#name)
if grown > tonumber(ARGV[2]) and grown > size then
  if earlier then
    redis.call('HSET', memory, name, earlier)
  else
    redis.call('HDEL', memory, name)
  end
  return {'full', tostring(grown)}
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local last = string.format('%d', math.max(now, tonumber(redis.call('HGET', session, 'last'))))
redis.call('HSET', session, 'memory_bytes', grown, 'last', last)
redis.call('ZADD', KEYS[2], last, ARGV[1])
redis.call('PEXPIRE', memory, ARGV[3])
redis.call('PEXPIRE', session, ARGV[3])
return {'stored', after}
