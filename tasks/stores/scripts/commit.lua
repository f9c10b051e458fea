-- Commit events, their messages and the end of a delivery attempt: all of it, or nothing.
-- - Records each event in the history and puts its messages in their queues; an event published before is skipped.
-- - No queue grows past its capacity. Of each message group one message is in its queue, the others wait in order.
-- - Delayed messages wait for their due time.
-- - With a settlement: the delivery is marked as handled or stored as a dead letter, and its message group advances; or
--   its next attempt is scheduled and its message is acknowledged.
-- - Registers the request that is made (register_reply.lua) and delivers replies (deliver_reply.lua).
-- Returns one of
--   {'published', n, ...}       per event 1 (new) or 0 (published before); for a reply that could not be delivered plus
--                               2 (late), 4 (wrong responder) or 6 (duplicate)
--   {'directory_changed'}       the messages were built from another version of the directory
--   {'already_settled'}         the delivery has ended before
--   {'lease_lost'}              another worker holds the message
--   {'duplicate_request'}       a request with this id is pending
--   {'queue_full', queue}       a queue that drops nothing has no capacity left
-- KEYS: directory:version, history, counters, message_groups, delayed, delayed:messages,
--       for each event: publication, stream's index, flow's index, the list of each message,
--       with a settlement: inbox, attempts, message group (or ''), dead letters, their times, states and replays,
--       unacked, unacked_index, leased
-- ARGV: directory version, history length, index length, history age in ms, deduplication window in ms,
--       inbox age in ms,
--       settlement as JSON (or ''), number of delayed messages, number of events,
--       for each event: JSON text, body of its messages, number of messages, and for each message: prefix, queue,
--       capacity (0: unlimited), 1 if it drops the oldest, delivery, message group,
--       for each delayed message: id, due in ms, value,
--       the request and the replies as JSON (or '')
local FIRST_KEY, FIRST_ARG, PER_MESSAGE = 7, 10, 6
local events = tonumber(ARGV[9])
local exchange = ARGV[#ARGV] ~= '' and cjson.decode(ARGV[#ARGV])
local settlement = ARGV[7] ~= '' and cjson.decode(ARGV[7])
local inbox, attempts, own_group, letters, letter_times, letter_states, letter_replays, unacked, unacked_index, leased
if settlement then
  inbox, attempts, own_group = unpack(KEYS, #KEYS - 9)
  letters, letter_times, letter_states, letter_replays = unpack(KEYS, #KEYS - 6)
  unacked, unacked_index, leased = unpack(KEYS, #KEYS - 2)
  if redis.call('EXISTS', inbox) == 1 then
    return {'already_settled'}
  end
  if settlement.consumer and redis.call('HGET', leased, settlement.tag) ~= settlement.consumer then
    return {'lease_lost'}
  end
end
if settlement and events == 0 then
  -- A full Redis lets a script that has written continue: the end of a delivery frees memory.
  redis.call('PERSIST', attempts)
end
if events > 0 and (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then
  return {'directory_changed'}
end

-- Kombu stores a queue as one list per priority step, the most urgent first.
local STEPS = {'', '\6\0223', '\6\0226', '\6\0229'}
local function depth(queue)
  local count = tonumber(redis.call('HGET', KEYS[4], queue) or 0)
  for _, step in ipairs(STEPS) do
    count = count + redis.call('LLEN', queue .. step)
  end
  return count
end
local function drop_oldest(queue)
  for step = #STEPS, 1, -1 do
    if redis.call('RPOP', queue .. STEPS[step]) then
      redis.call('HINCRBY', KEYS[3], 'dropped_oldest:' .. queue, 1)
      return
    end
  end
end

-- Consumers of our transport wait for the queue's wake-up key (tasks/transport/scripts/publish_message.lua).
local function enqueue(queue, list, message)
  redis.call('LPUSH', list, message)
  -- A key that exists already wakes nobody: a waiting consumer would have taken it.
  if redis.call('ZADD', queue .. '\6\022wakeup', 0, 0) == 1 then
    redis.call('PEXPIRE', queue .. '\6\022wakeup', 10000)
  end
end

-- An entry of a message group is delivery, queue, list and message, separated by line feeds; the first three have none.
local function send_in_order(group, delivery, queue, list, message)
  if group ~= '' and not redis.call('SET', group .. ':active', delivery, 'NX') then
    redis.call('RPUSH', group, table.concat({delivery, queue, list, message}, '\n'))
    redis.call('HINCRBY', KEYS[4], queue, 1)
  else
    enqueue(queue, list, message)
  end
end
local function advance(group, settled)
  if group == '' or redis.call('GET', group .. ':active') ~= settled then
    return
  end
  local following = redis.call('LPOP', group)
  if not following then
    redis.call('DEL', group .. ':active')
    return
  end
  local delivery, queue, list, message = following:match('^(.-)\n(.-)\n(.-)\n(.*)$')
  redis.call('HINCRBY', KEYS[4], queue, -1)
  redis.call('SET', group .. ':active', delivery)
  enqueue(queue, list, message)
end

-- First pass, without writes: Redis does not roll back a script that fails.
local key, arg = FIRST_KEY, FIRST_ARG
local free, are_new = {}, {}
for _ = 1, events do
  local messages = tonumber(ARGV[arg + 2])
  local is_new = redis.call('EXISTS', KEYS[key]) == 0
  are_new[#are_new + 1] = is_new
  for position = key + 1, key + 2 + messages do
    local kind = redis.call('TYPE', KEYS[position]).ok
    if kind ~= 'none' and kind ~= 'list' then
      return redis.error_reply('WRONGTYPE ' .. KEYS[position] .. ' is a ' .. kind .. '; nothing was published')
    end
  end
  for number = 0, messages - 1 do
    local message = arg + 3 + number * PER_MESSAGE
    local queue, capacity = ARGV[message + 1], tonumber(ARGV[message + 2])
    if is_new and capacity > 0 and ARGV[message + 3] == '0' then
      free[queue] = (free[queue] or capacity - depth(queue)) - 1
      if free[queue] < 0 then
        return {'queue_full', queue}
      end
    end
  end
  key = key + 3 + messages
  arg = arg + 3 + messages * PER_MESSAGE
end

local request = exchange and exchange.request
if request and are_new[1] and not register_reply(exchange.table, request.id, request.responder, request.reply_to,
    request.timeout_ms, request.margin_ms, request.token) then
  return {'duplicate_request'}
end

local result, texts = {'published'}, {}
key, arg = FIRST_KEY, FIRST_ARG
for _ = 1, events do
  local messages = tonumber(ARGV[arg + 2])
  texts[#texts + 1] = ARGV[arg]
  if redis.call('EXISTS', KEYS[key]) == 1 then
    result[#result + 1] = 0
  else
    append_to_history(KEYS[2], {KEYS[key + 1], KEYS[key + 2]}, ARGV[arg], ARGV[2], ARGV[3], ARGV[4])
    for number = 0, messages - 1 do
      local message = arg + 3 + number * PER_MESSAGE
      local queue, capacity = ARGV[message + 1], tonumber(ARGV[message + 2])
      if capacity > 0 and ARGV[message + 3] == '1' then
        while depth(queue) >= capacity do
          drop_oldest(queue)
        end
      end
      send_in_order(ARGV[message + 5], ARGV[message + 4], queue, KEYS[key + 3 + number], ARGV[message] .. ARGV[arg + 1])
    end
    if messages == 0 then
      redis.call('HINCRBY', KEYS[3], 'unrouted', 1)
    end
    redis.call('SET', KEYS[key], 'done', 'PX', ARGV[5])
    result[#result + 1] = 1
  end
  key = key + 3 + messages
  arg = arg + 3 + messages * PER_MESSAGE
end
for _ = 1, tonumber(ARGV[8]) do
  delay_message(KEYS[5], KEYS[6], ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], false)
  arg = arg + 3
end

local UNMATCHED = {late = 2, wrong_responder = 4, duplicate = 6}
for _, reply in ipairs(exchange and exchange.replies or {}) do
  local place = reply.place
  if result[place + 1] == 1 then
    local outcome = deliver_reply(exchange.table, KEYS[3], reply.request_id, reply.responder, reply.response_id,
      texts[place])
    result[place + 1] = 1 + (UNMATCHED[outcome] or 0)
  elseif settlement then
    -- Published before this delivery ended: the request's deadline has answered it, under the same event id.
    redis.call('HINCRBY', KEYS[3], 'replies_unmatched', 1)
    result[place + 1] = UNMATCHED.late
  end
end

if not settlement then
  return result
end
if settlement.outcome == 'handled' or settlement.outcome == 'dead_lettered' then
  if settlement.letter then
    redis.call('HINCRBY', KEYS[3], 'dead_lettered', 1)
    dead_letter(letters, letter_times, letter_states, settlement.letter.id, settlement.letter.text, settlement.letter.ms)
  elseif settlement.resolved_letter then
    resolve_dead_letter(letter_states, letter_replays, settlement.resolved_letter, settlement.replay)
  end
  for name, value in pairs(settlement.state or {}) do
    redis.call('HSET', settlement.state_key, name, value)
  end
  redis.call('SET', inbox, 'done', 'PX', ARGV[6])
  redis.call('DEL', attempts)
  advance(own_group, settlement.delivery)
  return result
end
-- The delivery is retried or deferred: record the failed attempt, or discard it, and schedule the next one.
redis.call('RPOP', attempts)
if settlement.failed_attempt then
  redis.call('HINCRBY', KEYS[3], 'retried', 1)
  redis.call('RPUSH', attempts, settlement.failed_attempt)
end
redis.call('PEXPIRE', attempts, settlement.attempts_retention_ms)
delay_message(KEYS[5], KEYS[6], settlement.delivery, settlement.due_ms, settlement.value, true)
if settlement.tag then
  redis.call('HDEL', unacked, settlement.tag)
  redis.call('ZREM', unacked_index, settlement.tag)
  redis.call('HDEL', leased, settlement.tag)
end
return result
