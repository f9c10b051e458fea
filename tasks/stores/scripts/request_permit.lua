-- Promise: of all that would call a dependency, in however many processes, everybody may while its circuit is closed,
-- nobody while it is open, and one when its time has come: the probe. Another may probe when the first one's lease is over.
-- Answers: {'permitted', epoch, change}, change being half_opened or '': call, and tell with that epoch how it ended;
-- {'denied', ms until it may be worth asking again}
-- KEYS: circuit, names of circuits   ARGV: name, reset in ms, lease of a probe in ms, ms that the clock is ahead
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[4]
local function text(number) return string.format('%.0f', number) end
local known = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'due_ms')
local state, epoch, due_ms = known[1], tonumber(known[2]), tonumber(known[3])
if not state then
  redis.call('HSET', KEYS[1], 'state', 'closed', 'epoch', 1, 'failures', 0, 'since_ms', text(now_ms))
  redis.call('SADD', KEYS[2], ARGV[1])
  return {'permitted', 1, ''}
elseif state == 'closed' then
  return {'permitted', epoch, ''}
elseif not due_ms then
  return {'denied', tonumber(ARGV[2])} -- opened by hand: nobody knows for how long
elseif due_ms > now_ms then
  -- A probe mostly ends long before its lease does: who waits for it looks again sooner.
  local longest_ms = state == 'half_open' and tonumber(ARGV[2]) / 4 or due_ms - now_ms
  return {'denied', math.ceil(math.min(due_ms - now_ms, longest_ms))}
end
-- The lease is no shorter than the reset time: probes that die are no more frequent than probes that fail.
redis.call('HSET', KEYS[1], 'state', 'half_open', 'epoch', epoch + 1,
  'due_ms', text(now_ms + math.max(tonumber(ARGV[2]), tonumber(ARGV[3]))))
if state == 'half_open' then
  return {'permitted', epoch + 1, ''}
end
redis.call('HSET', KEYS[1], 'since_ms', text(now_ms))
return {'permitted', epoch + 1, 'half_opened'}
