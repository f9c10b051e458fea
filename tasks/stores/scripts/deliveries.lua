-- Prepended, after history.lua, to scripts that move deliveries.
-- A delivery is in one place: a queue, the hash of the consumer that leases it, the delayed messages, a message group,
-- or the dead letters. An entry is five parts, separated by line feeds; only the last may have some:
--   reference      the event in the history, or '' if the last part has the event
--   subscription   its name; '' for a message of another Celery client
--   crashes        '' for a new delivery; a number if a consumer was lost with it: how often it crashed a process
--   options        JSON object, or '': id, group, replay, letter, attempts, due, body; of such a message: its list
--   body           the event, also beside a reference if the history has it without its secrets; the message; or ''
-- A queue has a list for each priority, `queues:<queue>:<step>`. A leased entry stands in `consumers:<consumer>` under
-- its delivery tag, after the name of its list and a line feed. Whoever removes the tag moves the delivery.
local prefix = ARGV[1]

local function wake(list)
  redis.call('ZADD', list:match('^(.*):%d+$') .. ':wakeup', 0, 0)
end

-- A list that was not empty has woken a consumer before, or is found once a second.
local function enqueue(list, entry)
  if redis.call('LPUSH', list, entry) == 1 then
    wake(list)
  end
end

local function parse_entry(entry)
  return entry:match('^(.-)\n(.-)\n(.-)\n(.-)\n(.*)$')
end

local function count_reference(counts, reference)
  local block = reference:match('^%d+')
  if block then
    counts[block] = (counts[block] or 0) + 1
  end
end

-- Enqueues a delivery, or has it wait until those before it in its message group have ended.
local function send_in_order(group, list, entry)
  if group == '' or redis.call('SADD', prefix .. ':active_message_groups', group) == 1 then
    enqueue(list, entry)
  else
    redis.call('RPUSH', prefix .. ':message_groups:' .. group, list .. '\n' .. entry)
    redis.call('HINCRBY', prefix .. ':message_groups', list:match(':queues:(.*):%d+$'), 1)
  end
end

local function advance(group)
  local following = redis.call('LPOP', prefix .. ':message_groups:' .. group)
  if not following then
    redis.call('SREM', prefix .. ':active_message_groups', group)
    return
  end
  local list, entry = following:match('^(.-)\n(.*)$')
  redis.call('HINCRBY', prefix .. ':message_groups', list:match(':queues:(.*):%d+$'), -1)
  enqueue(list, entry)
end

-- Ends a delivery without another outcome: a replay of a dead letter has failed again. Returns its message group.
local function end_delivery(counts, entry)
  local reference, _, _, options = parse_entry(entry)
  count_reference(counts, reference)
  if options:sub(1, 1) ~= '{' then
    return
  end
  local decoded, states = cjson.decode(options), prefix .. ':dead_letters:states'
  if decoded.letter and redis.call('HGET', states, decoded.letter) == 'replaying' then
    redis.call('HSET', states, decoded.letter, 'failed_again')
  end
  return decoded.group
end

-- Ends deliveries without another outcome, and their message groups advance. `entries` are without their list.
local function drop(entries)
  local counts = {}
  for _, entry in ipairs(entries) do
    local group = end_delivery(counts, entry)
    if group then
      advance(group)
    end
  end
  dereference(counts)
end

-- Deletes the mark that a delivery has begun. Only those whose consumer was lost before have one.
local function forget_begun(slots, tag, entry)
  if entry:find('^[^\n]*\n[^\n]*\n%d') then
    redis.call('HDEL', slots, 'begun:' .. tag)
  end
end

-- A delivery whose consumer was lost is marked with a number of crashes, which may be 0.
local function add_crashes(entry, crashes)
  local reference, subscription, earlier, options, body = parse_entry(entry)
  local count = string.format('%d', (tonumber(earlier) or 0) + crashes)
  return table.concat({reference, subscription, count, options, body}, '\n')
end

-- Returns a leased delivery to its queue, to be fetched first.
local function give_back(leased, crashes)
  local list, entry = leased:match('^(.-)\n(.*)$')
  if redis.call('RPUSH', list, crashes and add_crashes(entry, crashes) or entry) == 1 then
    wake(list)
  end
end

