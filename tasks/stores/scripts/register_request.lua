-- Promise: a request is waited for under its id once at a time; whoever registers a second one is refused.
-- Overdue requests, whose requesters are dead, leave the table in passing.
-- KEYS: request, table of all that are waited for
-- ARGV: request id, responder, list that the answer goes to (or ''), timeout in ms, margin in ms,
--       1 where it replaces what is there (another run of the handler that asks)
-- Returns 1, or 0 where it was refused.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'deadline_ms', 'response')
if known[1] and not known[2] and tonumber(known[1]) > now and ARGV[6] ~= '1' then
  return 0
end
local deadline = string.format('%.0f', now + ARGV[4])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'responder', ARGV[2], 'reply_to', ARGV[3], 'deadline_ms', deadline)
redis.call('PEXPIRE', KEYS[1], ARGV[4] + ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[2], deadline, ARGV[1])
return 1
