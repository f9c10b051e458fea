-- Promise: what an account counts is never more than its quotas: a call counts from its reservation until a window after
-- it was settled, so for as long as any window in which the provider may have counted it; one that nobody settles, until
-- a window after its lease.
-- Answers: {'reserved'}, or {'denied', ms, 'pause' or 'quota'}: those who are refused are told times one after another
-- KEYS: account, calls by when they are forgotten, tokens of calls   ARGV: call, tokens, requests in a window or '',
-- tokens in a window or '', window in ms, lease in ms, ms that the clock is ahead
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[7]
local function text(number) return string.format('%.0f', number) end
local tokens, window_ms = tonumber(ARGV[2]), tonumber(ARGV[5])
local most_requests, most_tokens = tonumber(ARGV[3]) or math.huge, tonumber(ARGV[4]) or math.huge

local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now_ms))
for _, call in ipairs(over) do
  redis.call('HINCRBY', KEYS[1], 'tokens', -tonumber(redis.call('HGET', KEYS[3], call) or 0))
  redis.call('HINCRBY', KEYS[1], 'requests', -1)
  redis.call('HDEL', KEYS[3], call)
  redis.call('ZREM', KEYS[2], call)
end

local known = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'paused_until_ms', 'told_ms')
local requests, used = tonumber(known[1]) or 0, tonumber(known[2]) or 0
local paused_until_ms = tonumber(known[3]) or 0
-- One after another, as fast as the quotas allow: else all of them came at once, for one to get room.
local step_ms = math.max(window_ms / most_requests, window_ms * tokens / most_tokens)
local function refuse(from_ms, why)
  local told_ms = math.max(from_ms, (tonumber(known[4]) or 0) + step_ms)
  redis.call('HSET', KEYS[1], 'told_ms', text(told_ms))
  return {'denied', math.ceil(told_ms - now_ms), why}
end

if paused_until_ms > now_ms then
  return refuse(paused_until_ms, 'pause')
elseif requests + 1 > most_requests or used + tokens > most_tokens then
  -- Calls under way are settled some time, and count for a window then: no earlier than that is there room by them.
  local from_ms, position = now_ms + window_ms, 0
  repeat
    local page = redis.call('ZRANGE', KEYS[2], position, position + 99, 'WITHSCORES')
    for i = 1, #page, 2 do
      requests, used = requests - 1, used - tonumber(redis.call('HGET', KEYS[3], page[i]) or 0)
      if requests + 1 <= most_requests and used + tokens <= most_tokens then
        return refuse(math.min(from_ms, tonumber(page[i + 1])), 'quota')
      end
    end
    position = position + 100
  until #page == 0
  return refuse(from_ms, 'quota')
end
local age_ms = tonumber(ARGV[6]) + window_ms
redis.call('ZADD', KEYS[2], text(now_ms + age_ms), ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], text(tokens))
redis.call('HINCRBY', KEYS[1], 'requests', 1)
redis.call('HINCRBY', KEYS[1], 'tokens', text(tokens))
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, text(math.max(age_ms * 2, redis.call('PTTL', key))))
end
return {'reserved'}
