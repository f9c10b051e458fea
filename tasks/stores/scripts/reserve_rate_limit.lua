-- Reserve a call if the quotas allow it. A call counts from its reservation until one window after it was settled,
-- which covers every window in which the provider may count it; an unsettled call counts until one window after its
-- lease.
-- Returns {'reserved'}, or {'denied', ms, 'pause' or 'quota'}; denied callers get times one after another.
-- KEYS: account, calls by the time they stop counting, tokens of calls, the accounts by the time of their last call
-- ARGV: call, tokens, requests per window or '', tokens per window or '', window in ms, lease in ms, clock offset in ms,
-- name of the account, name of the calling agent or ''
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[7]
local function text(number) return string.format('%.0f', number) end
local KNOWN_ACCOUNTS = 200
local tokens, window_ms = tonumber(ARGV[2]), tonumber(ARGV[5])
local most_requests, most_tokens = tonumber(ARGV[3]) or math.huge, tonumber(ARGV[4]) or math.huge

-- What `petiole top`, metrics and the console show.
redis.call('ZADD', KEYS[4], text(now_ms), ARGV[8])
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - KNOWN_ACCOUNTS)
redis.call('HSET', KEYS[1], 'request_quota', ARGV[3], 'token_quota', ARGV[4])
if ARGV[9] ~= '' then redis.call('HSET', KEYS[1], 'agent:' .. ARGV[9], 1) end

local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now_ms))
for _, call in ipairs(expired) do
  -- Not -tokens: of 0 that is -0, which is no integer to the server.
  redis.call('HINCRBY', KEYS[1], 'tokens', text(0 - (redis.call('HGET', KEYS[3], call) or 0)))
  redis.call('HINCRBY', KEYS[1], 'requests', -1)
  redis.call('HDEL', KEYS[3], call)
  redis.call('ZREM', KEYS[2], call)
end

local known = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'paused_until_ms', 'retry_ms')
local requests, used = tonumber(known[1]) or 0, tonumber(known[2]) or 0
local paused_until_ms = tonumber(known[3]) or 0
-- One after another, as fast as the quotas allow: else all would retry at once for one free slot.
local step_ms = math.max(window_ms / most_requests, window_ms * tokens / most_tokens)
local function deny(from_ms, why)
  local retry_ms = math.max(from_ms, (tonumber(known[4]) or 0) + step_ms)
  redis.call('HSET', KEYS[1], 'retry_ms', text(retry_ms))
  return {'denied', math.ceil(retry_ms - now_ms), why}
end

if paused_until_ms > now_ms then
  return deny(paused_until_ms, 'pause')
elseif requests + 1 > most_requests or used + tokens > most_tokens then
  -- Running calls count for a window after they are settled, so they free nothing before.
  local from_ms, position = now_ms + window_ms, 0
  repeat
    local page = redis.call('ZRANGE', KEYS[2], position, position + 99, 'WITHSCORES')
    for i = 1, #page, 2 do
      requests, used = requests - 1, used - tonumber(redis.call('HGET', KEYS[3], page[i]) or 0)
      if requests + 1 <= most_requests and used + tokens <= most_tokens then
        return deny(math.min(from_ms, tonumber(page[i + 1])), 'quota')
      end
    end
    position = position + 100
  until #page == 0
  return deny(from_ms, 'quota')
end
local age_ms = tonumber(ARGV[6]) + window_ms
redis.call('ZADD', KEYS[2], text(now_ms + age_ms), ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], text(tokens))
redis.call('HINCRBY', KEYS[1], 'requests', 1)
redis.call('HINCRBY', KEYS[1], 'tokens', text(tokens))
for i = 1, 3 do
  local key = KEYS[i]
  redis.call('PEXPIRE', key, text(math.max(age_ms * 2, redis.call('PTTL', key))))
end
return {'reserved'}
