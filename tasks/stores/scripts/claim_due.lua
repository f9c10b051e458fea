-- Claim due messages for one caller; each is due again when its claim ends, unless it was confirmed before.
-- Returns id, value, end of the claim in ms, ...
-- KEYS: delayed, delayed:messages   ARGV: limit, duration of the claim in ms, ahead in ms
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now + ARGV[3]), 'LIMIT', 0, ARGV[1])
local claims = {}
for _, id in ipairs(due) do
  local value = redis.call('HGET', KEYS[2], id)
  if value then
    local claimed_until = string.format('%.0f', now + ARGV[2])
    claims[#claims + 1], claims[#claims + 2], claims[#claims + 3] = id, value, claimed_until
    redis.call('ZADD', KEYS[1], claimed_until, id)
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return claims
