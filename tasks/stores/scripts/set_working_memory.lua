-- Store values in a session's working memory, all or none: nothing changes if the memory would exceed its limit, or the
-- session has ended.
-- Returns 'stored', 'full' with the size it would have, 'ended' or 'not_found'.
-- KEYS: session, sessions, memory
-- ARGV: session id, limit in bytes, time to live in ms, then name and JSON in turn ('' removes the name)
local session, memory = KEYS[1], KEYS[3]
local state = redis.call('HGET', session, 'state')
if not state then
  return {'not_found', 0}
end
if state == 'ended' then
  return {'ended', 0}
end
local before = tonumber(redis.call('HGET', session, 'memory_bytes') or 0)
local size = before
for place = 4, #ARGV, 2 do
  local name, text = ARGV[place], ARGV[place + 1]
  if redis.call('HEXISTS', memory, name) == 1 then
    size = size - #name - redis.call('HSTRLEN', memory, name)
  end
  if text ~= '' then
    size = size + #name + #text
  end
end
if size > tonumber(ARGV[2]) and size > before then
  return {'full', size}
end
for place = 4, #ARGV, 2 do
  if ARGV[place + 1] == '' then
    redis.call('HDEL', memory, ARGV[place])
  else
    redis.call('HSET', memory, ARGV[place], ARGV[place + 1])
  end
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local last = string.format('%d', math.max(now, tonumber(redis.call('HGET', session, 'last'))))
redis.call('HSET', session, 'memory_bytes', size, 'last', last)
redis.call('ZADD', KEYS[2], last, ARGV[1])
redis.call('PEXPIRE', memory, ARGV[3])
redis.call('PEXPIRE', session, ARGV[3])
return {'stored', size}
