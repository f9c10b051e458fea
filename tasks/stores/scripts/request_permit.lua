-- Request permission to call a dependency. All processes may call while its circuit is closed, none while it is open,
-- and one when the reset time has passed: the probe. Another probe is permitted when the lease of the first has
-- expired.
-- Returns {'permitted', epoch, transition}, the transition being half_opened or '', or {'denied', ms to wait}.
-- KEYS: circuit, circuits   ARGV: name, reset in ms, lease of a probe in ms, clock offset in ms
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
  return {'denied', tonumber(ARGV[2])} -- opened by hand, without an end
elseif due_ms > now_ms then
  -- A probe usually ends long before its lease: ask again sooner.
  local longest_ms = state == 'half_open' and tonumber(ARGV[2]) / 4 or due_ms - now_ms
  return {'denied', math.ceil(math.min(due_ms - now_ms, longest_ms))}
end
-- The lease is no shorter than the reset time: crashed probes are not more frequent than failed ones.
redis.call('HSET', KEYS[1], 'state', 'half_open', 'epoch', epoch + 1,
  'due_ms', text(now_ms + math.max(tonumber(ARGV[2]), tonumber(ARGV[3]))))
if state == 'half_open' then
  return {'permitted', epoch + 1, ''}
end
redis.call('HSET', KEYS[1], 'since_ms', text(now_ms))
return {'permitted', epoch + 1, 'half_opened'}
