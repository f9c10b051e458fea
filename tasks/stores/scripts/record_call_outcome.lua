-- Record the outcome of a call. It changes the circuit only in the epoch in which the call started; every transition
-- and every probe starts a new epoch. The call that causes a transition gets it in its answer.
-- Outcomes: succeeded; failed; rejected: an error of the caller, reported by the dependency; not_sent.
-- Returns {transition, epoch, failures in a row, ms to wait if it is not closed}, the transition being opened,
-- reopened, closed or ''.
-- KEYS: circuit, its window
-- ARGV: epoch, outcome, failures in a row that open it, reset in ms, failure ratio that opens it or '', window in ms,
--       least calls in a window, ms that the dependency asks to wait, error, caller, clock offset in ms
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[11]
local function text(number) return string.format('%.0f', number) end
local known = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'failures', 'due_ms')
local state, epoch, failures = known[1], tonumber(known[2]), tonumber(known[3])
local outcome = ARGV[2]
local unchanged = {'', epoch or 0, failures or 0, 0}
if epoch ~= tonumber(ARGV[1]) or state == 'open' then
  if state and state ~= 'closed' then
    unchanged[4] = known[4] and math.max(0, math.ceil(known[4] - now_ms)) or tonumber(ARGV[4])
  end
  return unchanged
end

local function enter(new_state, count, due_ms)
  redis.call('HSET', KEYS[1], 'state', new_state, 'epoch', epoch + 1, 'failures', count, 'since_ms', text(now_ms),
    'error', ARGV[9], 'by', ARGV[10])
  redis.call('HDEL', KEYS[1], 'due_ms')
  if due_ms then redis.call('HSET', KEYS[1], 'due_ms', text(due_ms)) end
  redis.call('DEL', KEYS[2])
end

local function open(change, count)
  local wait_ms = math.max(tonumber(ARGV[4]), tonumber(ARGV[8]))
  enter('open', count, now_ms + wait_ms)
  return {change, epoch + 1, count, wait_ms}
end

-- The window has ten parts; the oldest is dropped when a new one starts.
local function failure_ratio()
  local part_ms = math.max(1, math.floor(ARGV[6] / 10))
  local part = math.floor(now_ms / part_ms)
  redis.call('HINCRBY', KEYS[2], outcome .. ':' .. text(part), 1)
  redis.call('PEXPIRE', KEYS[2], math.ceil(ARGV[6] * 2))
  local counts = {succeeded = 0, failed = 0}
  local fields = redis.call('HGETALL', KEYS[2])
  for i = 1, #fields, 2 do
    local kind, of = string.match(fields[i], '^(%a+):(%d+)$')
    if tonumber(of) > part - 10 then
      counts[kind] = counts[kind] + tonumber(fields[i + 1])
    else
      redis.call('HDEL', KEYS[2], fields[i])
    end
  end
  local calls = counts.succeeded + counts.failed
  return calls >= tonumber(ARGV[7]) and counts.failed / calls or 0
end

if state == 'half_open' then
  if outcome == 'failed' then
    return open('reopened', failures + 1)
  elseif outcome == 'not_sent' then
    redis.call('HSET', KEYS[1], 'due_ms', text(now_ms)) -- the dependency was not called: the next call probes
    return unchanged
  end
  enter('closed', 0, nil)
  return {'closed', epoch + 1, 0, 0}
elseif outcome == 'rejected' or outcome == 'not_sent' then
  return unchanged
end
failures = outcome == 'failed' and failures + 1 or 0
redis.call('HSET', KEYS[1], 'failures', failures)
local is_over_ratio = ARGV[5] ~= '' and failure_ratio() >= tonumber(ARGV[5])
if outcome == 'failed' and (failures >= tonumber(ARGV[3]) or is_over_ratio) then
  return open('opened', failures)
end
return {'', epoch, failures, 0}
