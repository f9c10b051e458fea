-- Promise: acknowledged messages are forgotten, and up to `credit` messages move from their queues to the unacked ones,
-- as kombu keeps them, in one step: at every moment a message is in its queue or recorded as taken, and by which holder.
-- An ack of what another holder has by now does nothing. One that names the delivery marks it in the inbox as handled.
-- With a ledger, a delivery that comes for the first time is admitted: it is in no inbox, nobody ran it or took it, its
-- agent still works on its flow; and that it was taken stands among its runs. What is not admitted has to ask later.
-- The text of a message is moved as it is: cjson would write an empty list as an empty object.
-- KEYS: unacked, unacked_index, held, undecodable, a bell for each queue, then for each priority a list for each queue
-- ARGV: credit, fair or strict, holder, number of queues, the ledger's prefixes of inbox marks ('': no ledger), of runs and
--       of aborted marks, their age in ms, the run that is noted, record or pass for each queue, then for each ack: tag, the
--       delivery that ends with it (or '')
-- Returns: queue, tag, message, 1 if it was admitted, queue, tag, ...; queues count from 1.
local credit, is_fair, holder, queues = tonumber(ARGV[1]), ARGV[2] == 'fair', ARGV[3], tonumber(ARGV[4])
local inbox, runs, aborted, age, run = unpack(ARGV, 5, 9)
local FIRST_FLAG = 9
local steps = queues > 0 and (#KEYS - 4 - queues) / queues or 0
-- A reply of many large messages would hold up everybody else.
local most_bytes = 4194304
local now = redis.call('TIME')
local time = now[1] .. '.' .. string.format('%06d', now[2])

local function list_of(step, queue)
  return KEYS[4 + step * queues + queue]
end

-- Lua hands a command 8000 arguments at most.
for first = FIRST_FLAG + queues + 1, #ARGV, 1000 do
  local tags, ours, ended = {}, {}, {}
  for place = first, math.min(first + 999, #ARGV), 2 do
    tags[#tags + 1] = ARGV[place]
  end
  for place, held_by in ipairs(redis.call('HMGET', KEYS[3], unpack(tags))) do
    if held_by == holder then
      ours[#ours + 1] = tags[place]
      local delivery = ARGV[first + 2 * place - 1]
      if delivery ~= '' then
        ended[#ended + 1] = delivery
      end
    end
  end
  if #ours > 0 then
    redis.call('HDEL', KEYS[1], unpack(ours))
    redis.call('ZREM', KEYS[2], unpack(ours))
    redis.call('HDEL', KEYS[3], unpack(ours))
  end
  for _, delivery in ipairs(ended) do
    redis.call('SET', inbox .. delivery, 'done', 'PX', age)
    redis.call('DEL', runs .. delivery)
  end
end
if credit == 0 then
  return {}
end
-- A key of the wrong type is found out here, before anything has left its queue.
redis.call('HLEN', KEYS[1])
redis.call('ZCARD', KEYS[2])
redis.call('HLEN', KEYS[3])

local taken, count, bytes, is_closed = {}, 0, 0, {}

local function entry(message)
  local decoded = cjson.decode(message)
  local properties = decoded.properties
  local origin = properties.delivery_info
  -- What a tag is made of has to be the same in every client that names it.
  assert(type(properties.delivery_tag) == 'string' and properties.delivery_tag:find('^[!-~]+$'))
  local exchange, key = cjson.encode(origin.exchange or cjson.null), cjson.encode(origin.routing_key or cjson.null)
  return properties.delivery_tag, '[' .. message .. ', ' .. exchange .. ', ' .. key .. ']', decoded.headers
end

local function is_first(headers)
  return type(headers) == 'table' and headers.retries == 0 and headers.eta == cjson.null and not headers.redelivered
    and not (headers.petiole_message_group or headers.petiole_replay or headers.petiole_dead_letter)
end
local function admit(headers)
  if inbox == '' or not is_first(headers) then
    return 0
  end
  local id, flow, agent = headers.id, headers.petiole_flow, tostring(headers.task):match('^(.*)%.')
  if type(id) ~= 'string' or type(flow) ~= 'string' or not agent then
    return 0
  end
  if redis.call('EXISTS', inbox .. id, runs .. id, aborted .. agent .. ':' .. flow) > 0 then
    return 0
  end
  redis.call('RPUSH', runs .. id, run)
  redis.call('PEXPIRE', runs .. id, age)
  return 1
end

local function deliver(queue, tag, message, is_admitted)
  taken[#taken + 1], taken[#taken + 2], taken[#taken + 3], taken[#taken + 4] = queue, tag, message, is_admitted
  count, bytes = count + 1, bytes + #message
end

local function record(queue, message)
  local is_message, tag, recorded, headers = pcall(entry, message)
  if is_message then
    redis.call('HSET', KEYS[1], tag, recorded)
    redis.call('ZADD', KEYS[2], time, tag)
    redis.call('HSET', KEYS[3], tag, holder)
    deliver(queue, tag, message, admit(headers))
  else
    redis.call('RPUSH', KEYS[4], KEYS[4 + queue] .. '\n' .. message)
    deliver(queue, '', message, 0)
  end
end

local function take(step, queue)
  if count >= credit or bytes >= most_bytes or is_closed[queue] then
    return false
  end
  local message = redis.call('RPOP', list_of(step, queue))
  if not message then
    return false
  end
  if ARGV[FIRST_FLAG + queue] == 'record' then
    record(queue, message)
  else
    -- Nobody could give it back: its consumer gets one at a time, and may leave after any.
    is_closed[queue] = true
    deliver(queue, '', message, 0)
  end
  return true
end

for step = 1, steps do
  local moved
  repeat
    moved = false
    for queue = 1, queues do
      repeat
        local took = take(step, queue)
        moved = moved or took
      until is_fair or not took
    end
  until not moved
end

-- What is left behind is announced again: whoever waits takes its part. Where all is taken, no bell need be heard.
for queue = 1, queues do
  local bell, lists = KEYS[4 + queue], {}
  for step = 1, steps do
    lists[step] = list_of(step, queue)
  end
  if redis.call('EXISTS', unpack(lists)) > 0 then
    redis.call('ZADD', bell, 0, 0)
    redis.call('PEXPIRE', bell, 10000)
  else
    redis.call('DEL', bell)
  end
end
return taken
