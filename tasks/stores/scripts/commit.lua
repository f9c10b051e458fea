-- Commits events, their deliveries and the end of a delivery attempt: all of it, or nothing. Uses history.lua,
-- deliveries.lua, delay_message.lua, dead_letter.lua, resolve_dead_letter.lua, register_reply.lua, deliver_reply.lua.
-- - Records each event in the history, and queues its deliveries. An event published before is skipped.
-- - No queue grows past its capacity. Of each message group one delivery is in its queue, the others wait in order.
-- - With a settlement: the delivery ends, as handled or as a dead letter, or its next attempt is scheduled.
-- - Registers the request that is made, and delivers replies.
-- Returns one of
--   {'published', n, ...}       per event 1 (new) or 0 (published before); for a reply that could not be delivered plus
--                               2 (late), 4 (wrong responder) or 6 (duplicate)
--   {'directory_changed'}       the deliveries were planned from another version of the directory
--   {'already_settled'}         the delivery has ended before
--   {'lease_lost'}              the consumer does not lease the delivery
--   {'duplicate_request'}       a request with this id is pending
--   {'queue_full', queue}       a queue that drops nothing has no capacity left
-- A repeated call for the same delivery tag returns the first call's answer.
-- ARGV: prefix, directory version, number of the deduplication window, its length in ms, history length, history age in
--       ms, inbox age in ms, number of events, number of delayed messages, the request and the replies as JSON (or ''),
--       outcome (or '': no settlement), delivery, consumer ('': no lease), delivery tag, slot ('': a message of another
--       Celery client, whose end the inbox records), message group, other parts of the settlement as JSON (or ''),
--       when the attempt began in ms (or ''),
--       for each event: id, JSON text, list and member of the stream's index and of the flow's, number of deliveries,
--       and for each delivery: list, entry without its reference, capacity ('': unlimited, negative: drops the oldest),
--       message group,
--       for each delayed message: id, due in ms, value
local version, window, window_ms, max_events, max_age_ms, inbox_ms = unpack(ARGV, 2, 7)
local events, delays = tonumber(ARGV[8]), tonumber(ARGV[9])
local outcome, delivery, consumer, tag, slot, own_group = unpack(ARGV, 11, 16)
local FIRST, PER_EVENT, PER_DELIVERY = 19, 7, 4
local is_entry, counters, leases, slots, leased = slot ~= '', prefix .. ':counters', nil, nil, nil
if outcome ~= '' then
  leases = prefix .. ':consumers:' .. consumer
  slots = leases .. ':slots'
  local last_tag, answer = (is_entry and redis.call('HGET', slots, slot) or ''):match('^(.-)\n(.*)$')
  if last_tag == tag then
    return cjson.decode(answer)
  elseif not is_entry and redis.call('EXISTS', prefix .. ':inbox:' .. delivery) == 1 then
    return {'already_settled'}
  end
  leased = consumer ~= '' and redis.call('HGET', leases, tag)
  if consumer ~= '' and not leased then
    return {'lease_lost'}
  end
end
if events > 0 and (redis.call('GET', prefix .. ':directory:version') or '0') ~= version then
  return {'directory_changed'}
end

local function depth(queue)
  local count = tonumber(redis.call('HGET', prefix .. ':message_groups', queue:match(':queues:(.*)$')) or 0)
  for _, step in ipairs({'0', '3', '6', '9'}) do
    count = count + redis.call('LLEN', queue .. ':' .. step)
  end
  return count
end
local function drop_oldest(queue)
  for _, step in ipairs({'9', '6', '3', '0'}) do
    local entry = redis.call('RPOP', queue .. ':' .. step)
    if entry then
      redis.call('HINCRBY', counters, 'dropped_oldest:' .. queue:match(':queues:(.*)$'), 1)
      drop({entry})
      return true
    end
  end
end
local published, published_before = prefix .. ':published:' .. window, prefix .. ':published:' .. (window - 1)
local function is_published(id)
  return redis.call('SISMEMBER', published, id) == 1 or redis.call('SISMEMBER', published_before, id) == 1
end

-- First pass, without writes: Redis does not roll back a script that fails.
local free, arg = {}, FIRST
for _ = 1, events do
  local id, first = ARGV[arg], arg + PER_EVENT
  arg = first + PER_DELIVERY * ARGV[arg + 6]
  for at = first, arg - 1, PER_DELIVERY do
    local capacity = tonumber(ARGV[at + 2])
    if capacity and capacity > 0 and not is_published(id) then
      local queue = ARGV[at]:match('^(.*):%d+$')
      free[queue] = (free[queue] or capacity - depth(queue)) - 1
      if free[queue] < 0 then
        return {'queue_full', queue:match(':queues:(.*)$')}
      end
    end
  end
end

local exchange = ARGV[10] ~= '' and cjson.decode(ARGV[10])
local request = exchange and exchange.request
if request and not is_published(ARGV[FIRST]) and not register_reply(exchange.table, request.id, request.responder, request.reply_to,
    request.timeout_ms, request.margin_ms, request.token) then
  return {'duplicate_request'}
end

-- Removed first: a full server lets a script that has written continue, and the end of a delivery frees memory.
if leased then
  redis.call('HDEL', leases, tag)
  forget_begun(slots, tag, leased:match('\n(.*)$'))
end

local function publish(at)
  local deliveries = tonumber(ARGV[at + 6])
  local reference = record_event(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], deliveries,
    max_events, max_age_ms, ARGV[18])
  for place = at + PER_EVENT, at + PER_EVENT + PER_DELIVERY * deliveries - 1, PER_DELIVERY do
    local list, capacity = ARGV[place], tonumber(ARGV[place + 2])
    if capacity and capacity < 0 then
      local queue = list:match('^(.*):%d+$')
      while depth(queue) >= -capacity and drop_oldest(queue) do
      end
    end
    send_in_order(ARGV[place + 3], list, reference .. ARGV[place + 1])
  end
  if deliveries == 0 then
    redis.call('HINCRBY', counters, 'unrouted', 1)
  end
end

local result, texts = {'published'}, {}
arg = FIRST
for number = 1, events do
  texts[number] = ARGV[arg + 1]
  local is_new = redis.call('SISMEMBER', published_before, ARGV[arg]) == 0
    and redis.call('SADD', published, ARGV[arg]) == 1
  if is_new then
    publish(arg)
  end
  result[#result + 1] = is_new and 1 or 0
  arg = arg + PER_EVENT + PER_DELIVERY * ARGV[arg + 6]
end
if events > 0 then
  redis.call('PEXPIRE', published, 2 * window_ms)
end
for _ = 1, delays do
  delay_message(prefix .. ':delayed', prefix .. ':delayed:messages', ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], false)
  arg = arg + 3
end

local UNMATCHED = {late = 2, wrong_responder = 4, duplicate = 6}
for _, reply in ipairs(exchange and exchange.replies or {}) do
  local place = reply.place
  if result[place + 1] == 1 then
    local text = reply.text ~= '' and reply.text or texts[place]
    local delivered = deliver_reply(exchange.table, counters, reply.request_id, reply.responder, reply.response_id, text)
    result[place + 1] = 1 + (UNMATCHED[delivered] or 0)
  elseif outcome ~= '' then
    -- Published before this delivery ended: the request's deadline has answered it, under the same event id.
    redis.call('HINCRBY', counters, 'replies_unmatched', 1)
    result[place + 1] = UNMATCHED.late
  end
end
if outcome == '' then
  return result
end

local attempts, running = prefix .. ':attempts:' .. delivery, prefix .. ':running:' .. delivery
local settlement = ARGV[17] ~= '' and cjson.decode(ARGV[17]) or {}
local is_ended = outcome == 'handled' or outcome == 'dead_lettered'
local letters = prefix .. ':dead_letters'
if settlement.letter then
  redis.call('HINCRBY', counters, 'dead_lettered', 1)
  dead_letter(letters, letters .. ':times', letters .. ':states', settlement.letter.id, settlement.letter.text,
    settlement.letter.ms)
elseif settlement.resolved_letter and outcome == 'handled' then
  resolve_dead_letter(letters .. ':states', letters .. ':replays', settlement.resolved_letter, settlement.replay)
end
for name, value in pairs(settlement.state or {}) do
  redis.call('HSET', settlement.state_key, name, value)
end
if settlement.failed_attempt then
  redis.call('HINCRBY', counters, 'retried', 1)
end
local ended = {}
if settlement.value then
  -- After the deduplication window, an event may be published again and its delivery fail like the one that waits.
  local waiting = is_entry and redis.call('HGET', prefix .. ':delayed:messages', delivery) or ''
  count_reference(ended, waiting:match('^[^\n]*\n[^\n]*\n(%d+/[^\n]*)\n') or '')
  delay_message(prefix .. ':delayed', prefix .. ':delayed:messages', delivery, settlement.due_ms, settlement.value, true)
end
if is_entry then
  if is_ended then
    count_reference(ended, (leased:match('\n(.-)\n')))
  end
  dereference(ended)
  redis.call('HSET', slots, slot, tag .. '\n' .. cjson.encode(result))
elseif is_ended then
  redis.call('SET', prefix .. ':inbox:' .. delivery, 'done', 'PX', inbox_ms)
  redis.call('DEL', attempts, running)
else
  redis.call('DEL', running)
  -- Record the failed attempt, or discard it.
  redis.call('RPOP', attempts)
  if settlement.failed_attempt then
    redis.call('RPUSH', attempts, settlement.failed_attempt)
  end
  redis.call('PEXPIRE', attempts, settlement.attempts_retention_ms)
end
if is_ended and own_group ~= '' then
  advance(own_group)
end
return result
