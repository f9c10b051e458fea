-- Needs append_chunk.lua.
-- Start an attempt of a response under a new number; only this attempt can write from then on. An open attempt before
-- it ends as abandoned. With `rejects`, nothing starts while another response of the stream is open.
-- Returns {'open', attempt} or {'busy', the open response}.
-- KEYS: stream, open responses, response
-- ARGV: response id, flow, token, lease in ms, age in ms, length, 1 if it rejects
local stream, open, answer = KEYS[1], KEYS[2], KEYS[3]
local limits = {age = ARGV[5], length = ARGV[6]}
local now = now_ms()
if ARGV[7] == '1' then
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', open, string.format('%.0f', now), '+inf')) do
    if other ~= ARGV[1] then
      return {'busy', other}
    end
  end
end
local known = redis.call('HMGET', answer, 'attempt', 'state')
if known[2] == 'open' then
  append_chunk(stream, limits, ARGV[1], ARGV[2], known[1], 'abandoned', '')
end
local attempt = (tonumber(known[1]) or 0) + 1
local first = append_chunk(stream, limits, ARGV[1], ARGV[2], attempt, 'started', '')
redis.call('HSETNX', answer, 'first', string.format('%.0f', first))
redis.call('HSET', answer, 'attempt', attempt, 'state', 'open', 'token', ARGV[3], 'flow', ARGV[2])
redis.call('PEXPIRE', answer, limits.age)
redis.call('ZREMRANGEBYSCORE', open, '-inf', string.format('(%.0f', now - limits.age))
redis.call('ZADD', open, string.format('%.0f', now + ARGV[4]), ARGV[1])
redis.call('PEXPIRE', open, limits.age)
return {'open', attempt}
