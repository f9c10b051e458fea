-- Applies acknowledgements, and moves up to `credit` messages from their queues to the unacknowledged ones, in kombu's
-- format. It is atomic: at every moment a message is in its queue or recorded as leased to a consumer.
-- An ack of a message that is leased to another consumer has no effect. An ack with a delivery id marks the delivery in
-- the inbox as handled.
-- With a delivery log, a delivery is checked: it comes for the first time, is not in the inbox, has no attempts, and
-- its flow is not aborted for its agent. Then its first attempt is recorded. The worker checks other deliveries.
-- The text of a message is moved unchanged: cjson would write an empty list as an empty object.
-- KEYS: unacked, unacked_index, leased, undecodable, a wake-up key for each queue, then for each priority a list for
--       each queue
-- ARGV: credit, fair or strict, consumer, number of queues, the delivery log's prefixes of inbox marks ('': no log), of
--       attempts and of aborted flows, their retention in ms, the attempt to record, record or pass for each queue,
--       then for each ack: tag, id of the handled delivery or ''
-- Returns: queue, tag, message, 1 if it was checked, queue, tag, ...; queues count from 1.
local credit, is_fair, consumer, queues = tonumber(ARGV[1]), ARGV[2] == 'fair', ARGV[3], tonumber(ARGV[4])
local inbox, attempts, aborted, retention_ms, attempt = unpack(ARGV, 5, 9)
local MODES_OFFSET = 9
local priorities = queues > 0 and (#KEYS - 4 - queues) / queues or 0
-- A large reply would block the server for other clients.
local max_bytes = 4194304
local now = redis.call('TIME')
local time = now[1] .. '.' .. string.format('%06d', now[2])

local function list_key(priority, queue)
  return KEYS[4 + priority * queues + queue]
end

-- Lua passes at most 8000 arguments to a command.
for first = MODES_OFFSET + queues + 1, #ARGV, 1000 do
  local tags, leased, handled = {}, {}, {}
  for index = first, math.min(first + 999, #ARGV), 2 do
    tags[#tags + 1] = ARGV[index]
  end
  for index, leased_to in ipairs(redis.call('HMGET', KEYS[3], unpack(tags))) do
    if leased_to == consumer then
      leased[#leased + 1] = tags[index]
      local delivery_id = ARGV[first + 2 * index - 1]
      if delivery_id ~= '' then
        handled[#handled + 1] = delivery_id
      end
    end
  end
  if #leased > 0 then
    redis.call('HDEL', KEYS[1], unpack(leased))
    redis.call('ZREM', KEYS[2], unpack(leased))
    redis.call('HDEL', KEYS[3], unpack(leased))
  end
  for _, delivery_id in ipairs(handled) do
    redis.call('SET', inbox .. delivery_id, 'done', 'PX', retention_ms)
    redis.call('DEL', attempts .. delivery_id)
  end
end
if credit == 0 then
  return {}
end
-- Raises an error for a key of the wrong type before a message leaves its queue.
redis.call('HLEN', KEYS[1])
redis.call('ZCARD', KEYS[2])
redis.call('HLEN', KEYS[3])

local result, count, bytes, is_finished = {}, 0, 0, {}

local function parse(message)
  local decoded = cjson.decode(message)
  local properties = decoded.properties
  local delivery_info = properties.delivery_info
  -- Every client must read the same tag, so it must be printable ASCII.
  assert(type(properties.delivery_tag) == 'string' and properties.delivery_tag:find('^[!-~]+$'))
  local exchange = cjson.encode(delivery_info.exchange or cjson.null)
  local routing_key = cjson.encode(delivery_info.routing_key or cjson.null)
  local entry = '[' .. message .. ', ' .. exchange .. ', ' .. routing_key .. ']'
  return properties.delivery_tag, entry, decoded.headers
end

local function is_first_delivery(headers)
  return type(headers) == 'table' and headers.retries == 0 and headers.eta == cjson.null and not headers.redelivered
    and not (headers.petiole_message_group or headers.petiole_replay or headers.petiole_dead_letter)
end

-- Records the first attempt and returns 1 if nothing speaks against handling the delivery; otherwise returns 0.
local function check(headers)
  if inbox == '' or not is_first_delivery(headers) then
    return 0
  end
  local id, flow, agent = headers.id, headers.petiole_flow, tostring(headers.task):match('^(.*)%.')
  if type(id) ~= 'string' or type(flow) ~= 'string' or not agent then
    return 0
  end
  if redis.call('EXISTS', inbox .. id, attempts .. id, aborted .. agent .. ':' .. flow) > 0 then
    return 0
  end
  redis.call('RPUSH', attempts .. id, attempt)
  redis.call('PEXPIRE', attempts .. id, retention_ms)
  return 1
end

local function add_to_result(queue, tag, message, is_checked)
  local size = #result
  result[size + 1], result[size + 2], result[size + 3], result[size + 4] = queue, tag, message, is_checked
  count, bytes = count + 1, bytes + #message
end

local function record(queue, message)
  local is_valid, tag, entry, headers = pcall(parse, message)
  if is_valid then
    redis.call('HSET', KEYS[1], tag, entry)
    redis.call('ZADD', KEYS[2], time, tag)
    redis.call('HSET', KEYS[3], tag, consumer)
    add_to_result(queue, tag, message, check(headers))
  else
    redis.call('RPUSH', KEYS[4], KEYS[4 + queue] .. '\n' .. message)
    add_to_result(queue, '', message, 0)
  end
end

local function fetch_one(priority, queue)
  if count >= credit or bytes >= max_bytes or is_finished[queue] then
    return false
  end
  local message = redis.call('RPOP', list_key(priority, queue))
  if not message then
    return false
  end
  if ARGV[MODES_OFFSET + queue] == 'record' then
    record(queue, message)
  else
    -- It cannot be requeued, so fetch one only: its consumer may stop after any message.
    is_finished[queue] = true
    add_to_result(queue, '', message, 0)
  end
  return true
end

for priority = 1, priorities do
  local has_fetched
  repeat
    has_fetched = false
    for queue = 1, queues do
      repeat
        local is_fetched = fetch_one(priority, queue)
        has_fetched = has_fetched or is_fetched
      until is_fair or not is_fetched
    end
  until not has_fetched
end

-- Messages that are left wake the next waiting consumer. An empty queue needs no wake-up key.
for queue = 1, queues do
  local wakeup_key, lists = KEYS[4 + queue], {}
  for priority = 1, priorities do
    lists[priority] = list_key(priority, queue)
  end
  if redis.call('EXISTS', unpack(lists)) > 0 then
    redis.call('ZADD', wakeup_key, 0, 0)
    redis.call('PEXPIRE', wakeup_key, 10000)
  else
    redis.call('DEL', wakeup_key)
  end
end
return result
