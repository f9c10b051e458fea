-- Promise: a call changes its circuit only in the epoch in which it began: every change of state begins another, and so
-- does every probe. Each change is answered to one caller: the one whose call made it.
-- Endings: ok; failed; answered: the caller's mistake, told by the dependency; unreached: it was not called at all.
-- Answers: {change, epoch, failures in a row, ms to wait where it is not closed now}, change being opened, reopened,
-- closed or ''
-- KEYS: circuit, its window   ARGV: epoch, ending, failures in a row that open it, reset in ms, share of failures that
-- opens it or '', window in ms, least calls in a window, ms for which the dependency asks to be left alone, error, who
-- called, ms that the clock is ahead
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[11]
local function text(number) return string.format('%.0f', number) end
local known = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'failures', 'due_ms')
local state, epoch, failures = known[1], tonumber(known[2]), tonumber(known[3])
local ending = ARGV[2]
local nothing = {'', epoch or 0, failures or 0, 0}
if epoch ~= tonumber(ARGV[1]) or state == 'open' then
  if state and state ~= 'closed' then
    nothing[4] = known[4] and math.max(0, math.ceil(known[4] - now_ms)) or tonumber(ARGV[4])
  end
  return nothing
end

local function enter(new_state, count, due_ms)
  redis.call('HSET', KEYS[1], 'state', new_state, 'epoch', epoch + 1, 'failures', count, 'since_ms', text(now_ms),
    'error', ARGV[9], 'by', ARGV[10])
  redis.call('HDEL', KEYS[1], 'due_ms')
  if due_ms then redis.call('HSET', KEYS[1], 'due_ms', text(due_ms)) end
  redis.call('DEL', KEYS[2])
end

local function opened(change, count)
  local wait_ms = math.max(tonumber(ARGV[4]), tonumber(ARGV[8]))
  enter('open', count, now_ms + wait_ms)
  return {change, epoch + 1, count, wait_ms}
end

-- Calls of the window, in ten parts: the oldest is dropped when a new one begins.
local function share_of_failures()
  local part_ms = math.max(1, math.floor(ARGV[6] / 10))
  local part = math.floor(now_ms / part_ms)
  redis.call('HINCRBY', KEYS[2], ending .. ':' .. text(part), 1)
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
  if ending == 'failed' then
    return opened('reopened', failures + 1)
  elseif ending == 'not_sent' then
    redis.call('HSET', KEYS[1], 'due_ms', text(now_ms)) -- nothing was learned: the next one probes
    return nothing
  end
  enter('closed', 0, nil)
  return {'closed', epoch + 1, 0, 0}
elseif ending == 'rejected' or ending == 'not_sent' then
  return nothing
end
failures = ending == 'failed' and failures + 1 or 0
redis.call('HSET', KEYS[1], 'failures', failures)
local is_too_much = ARGV[5] ~= '' and share_of_failures() >= tonumber(ARGV[5])
if ending == 'failed' and (failures >= tonumber(ARGV[3]) or is_too_much) then
  return opened('opened', failures)
end
return {'', epoch, failures, 0}
