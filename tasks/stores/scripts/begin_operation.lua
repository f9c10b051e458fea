-- Start an operation: of all concurrent callers one executes it; once it is done, all get its outcome.
-- Returns {'started'}; {'done', outcome JSON}; {'in_progress', since ms} if another caller started it less than the
-- limit ago; {'unfinished', since ms} if the limit has passed or the same owner asks again.
-- KEYS: operation
-- ARGV: token, owner ('': none), limit in ms, age in ms, 1 if an unfinished operation is started again
local known = redis.call('HMGET', KEYS[1], 'outcome', 'owner', 'since_ms')
if known[1] then
  return {'done', known[1]}
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
if known[3] then
  local is_over = (ARGV[2] ~= '' and known[2] == ARGV[2]) or now_ms - known[3] >= tonumber(ARGV[3])
  if not is_over then
    return {'in_progress', known[3]}
  elseif ARGV[5] ~= '1' then
    return {'unfinished', known[3]}
  end
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'owner', ARGV[2], 'since_ms', string.format('%.0f', now_ms))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'started'}
