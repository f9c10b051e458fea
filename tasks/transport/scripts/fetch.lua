-- Acknowledges deliveries, then fetches up to `credit` deliveries and messages of other Celery clients. It is atomic: at
-- every moment a delivery is in its queue or leased to a consumer. Prepended: history.lua, deliveries.lua.
-- An acknowledged delivery is dropped if the consumer still leases it; otherwise nothing happens.
-- KEYS: for each priority a list of messages for each queue
-- ARGV: prefix, consumer, credit, fair or strict, first delivery tag, number of queues, number of priorities, for each
--       queue its lists without the step, and `pass`, or to lease the lists to which a delivery returns; for each
--       priority its step; then acknowledged tags
-- Returns: 1 if a flow was aborted for an agent lately, else 0; then number of the queue, tag (0: not leased), entry,
-- event, ...; queues count from 1. `event` is that of an entry which refers to the history, or the number of an earlier
-- row with the same event; '' if it was deleted.
local consumer, credit, is_fair = ARGV[2], tonumber(ARGV[3]), ARGV[4] == 'fair'
local tag, queues, priorities = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST_QUEUE, FIRST_STEP = 8, 8 + 2 * queues
local consumers, leases = prefix .. ':consumers', prefix .. ':consumers:' .. consumer
-- A large reply would block the server for other clients.
local max_bytes = 4194304

-- Lua passes at most 8000 arguments to a command.
for first = FIRST_STEP + priorities, #ARGV, 1000 do
  local tags = {unpack(ARGV, first, math.min(first + 999, #ARGV))}
  local entries = {}
  for place, leased in ipairs(redis.call('HMGET', leases, unpack(tags))) do
    if leased then
      local entry = leased:match('\n(.*)$')
      entries[#entries + 1] = entry
      forget_begun(leases .. ':slots', tags[place], entry)
    end
  end
  if #entries > 0 then
    redis.call('HDEL', leases, unpack(tags))
    drop(entries)
  end
end

-- For each priority and queue, as in KEYS, its list of entries and its list of messages.
local lists = {}
for priority = 1, priorities do
  local step = ':' .. ARGV[FIRST_STEP + priority - 1]
  for queue = 1, queues do
    local size = #lists
    lists[size + 1] = ARGV[FIRST_QUEUE + 2 * queue - 2] .. step
    lists[size + 2] = KEYS[size / 2 + 1]
  end
end
-- How many lists have entries, as far as is known. Most are empty: it ends when these have been emptied.
local filled = credit > 0 and redis.call('EXISTS', unpack(lists)) or 0
if filled == 0 then
  return {0}
end

local result, taken, passed = {redis.call('EXISTS', prefix .. ':aborted')}, {}, {}
local rows, count, bytes, is_finished = {}, 0, 0, {}

local function read_event(reference)
  if reference == '' then
    return ''
  elseif rows[reference] then
    return rows[reference]
  end
  rows[reference] = count + 1
  local id = reference:match('/(.*)$')
  local found = id and redis.call('XRANGE', history, id, id)[1]
  return found and found[2][2] or ''
end

-- Leases an entry that returns to the list `home`, or passes it on.
local function add(queue, home, entry, event)
  local own_tag = 0
  if home then
    own_tag, tag = tag, tag + 1
    taken[#taken + 1], taken[#taken + 2] = string.format('%d', own_tag), home .. '\n' .. entry
  else
    passed[#passed + 1] = entry
  end
  local size = #result
  result[size + 1], result[size + 2], result[size + 3], result[size + 4] = queue, own_tag, entry, event
  count, bytes = count + 1, bytes + #entry + (type(event) == 'string' and #event or 0)
end

local function pop(list, limit)
  local popped = limit > 0 and redis.call('RPOP', list, limit) or {}
  if #popped > 0 and #popped < limit then
    filled = filled - 1
  end
  return popped
end

-- Fetches up to `limit`; of a queue whose messages are not leased one only: its consumer may stop after any message.
local function fetch(priority, queue, limit)
  local place = (priority - 1) * queues + queue
  if is_finished[place] then
    return
  end
  local home = ARGV[FIRST_QUEUE + 2 * queue - 1]
  if home == 'pass' then
    limit, is_finished[place], home = 1, true, nil
  else
    home = home .. ':' .. ARGV[FIRST_STEP + priority - 1]
  end
  local entries, messages = pop(lists[2 * place - 1], limit), lists[2 * place]
  for _, entry in ipairs(entries) do
    add(queue, home, entry, read_event(entry:match('^[^\n]*')))
  end
  for _, message in ipairs(filled > 0 and pop(messages, limit - #entries) or {}) do
    add(queue, home, '\n\n\n' .. messages .. '\n' .. message, '')
  end
end

for priority = 1, priorities do
  repeat
    local before = count
    for queue = 1, queues do
      local left = credit - count
      if left > 0 and filled > 0 and bytes < max_bytes then
        -- In turns: each queue gets an equal share of what is left.
        fetch(priority, queue, is_fair and math.ceil(left / (queues - queue + 1)) or left)
      end
    end
  until count == before or count >= credit or filled == 0 or bytes >= max_bytes
end
for first = 1, #taken, 1000 do
  redis.call('HSET', leases, unpack(taken, first, math.min(first + 999, #taken)))
end
-- A delivery that is not leased ends here.
drop(passed)
-- A consumer that was expired may fetch before its next heartbeat; it may be lost before it, too.
if #taken > 0 and not redis.call('ZSCORE', consumers, consumer) then
  local now = redis.call('TIME')
  redis.call('ZADD', consumers, string.format('%s.%06d', now[1], now[2]), consumer)
end

-- What is left wakes the next consumer that waits.
local wakeups = {}
for queue = 1, queues do
  wakeups[queue] = ARGV[FIRST_QUEUE + 2 * queue - 2] .. ':wakeup'
end
if filled == 0 and #passed == 0 then
  redis.call('DEL', unpack(wakeups))
  return result
end
for queue = 1, queues do
  local left, base = {}, ARGV[FIRST_QUEUE + 2 * queue - 2]
  for priority = 1, priorities do
    left[#left + 1] = base .. ':' .. ARGV[FIRST_STEP + priority - 1]
    left[#left + 1] = KEYS[(priority - 1) * queues + queue]
  end
  if redis.call('EXISTS', unpack(left)) > 0 then
    redis.call('ZADD', wakeups[queue], 0, 0)
  else
    redis.call('DEL', wakeups[queue])
  end
end
return result
