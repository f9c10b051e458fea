-- Set a circuit's state by hand. Running calls end in an old epoch and change nothing.
-- Returns {1 if the state changed, epoch}.
-- KEYS: circuit, its window
-- ARGV: state, ms until the probe ('': never), error, operator, clock offset in ms
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[5]
local function text(number) return string.format('%.0f', number) end
local known = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if not known[1] then
  return {0, 0}
end
local is_change = known[1] ~= ARGV[1] and 1 or 0
local epoch = tonumber(known[2]) + 1
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'epoch', epoch, 'failures', 0, 'error', ARGV[3], 'by', ARGV[4])
if is_change == 1 then redis.call('HSET', KEYS[1], 'since_ms', text(now_ms)) end
redis.call('HDEL', KEYS[1], 'due_ms')
if ARGV[1] == 'open' and ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'due_ms', text(now_ms + ARGV[2])) end
redis.call('DEL', KEYS[2])
return {is_change, epoch}
