-- Promise: all of these events are recorded and all their messages stand in their queues, or nothing happened. Events that
-- were published before are passed over. No queue holds more than its capacity. Of each mailbox one message stands in its
-- queue at a time, the others wait in the order they came. With an inbox mark: the delivery is marked in the same step and
-- its mailbox goes on, and a delivery that was marked before says nothing.
-- Answers: {'published', 1 or 0 for each event (0: published before)}; {'moved'} where the directory is not the one that
-- the messages were made from; {'settled'} where the delivery was marked before; {'full', queue} where a queue that drops
-- nothing is full.
-- KEYS: directory:version, history, counters, inbox mark (or any key), mailboxes, the settled delivery's mailbox (or ''),
--       then for each event: published marker, stream's index, flow's index, the list of each message
-- ARGV: directory version, history length, index length, history age in ms, publish window in ms, inbox age in ms (0: no
--       mark), settled delivery, number of events, then for each event: JSON text, tail of its messages, number of
--       messages, then for each message: head, queue, capacity (0: none), 1 where the oldest gives way, delivery, mailbox
local FIRST_KEY, FIRST_ARG, PER_MESSAGE = 7, 9, 6
local events = tonumber(ARGV[8])
local has_mark = ARGV[6] ~= '0'
if has_mark and redis.call('EXISTS', KEYS[4]) == 1 then
  return {'settled'}
end
if events > 0 and (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then
  return {'moved'}
end

-- Kombu keeps a queue in one list for each step of priority, the most urgent first.
local STEPS = {'', '\6\0223', '\6\0226', '\6\0229'}
local function waiting(queue)
  local count = tonumber(redis.call('HGET', KEYS[5], queue) or 0)
  for _, step in ipairs(STEPS) do
    count = count + redis.call('LLEN', queue .. step)
  end
  return count
end
local function drop_oldest(queue)
  for step = #STEPS, 1, -1 do
    if redis.call('RPOP', queue .. STEPS[step]) then
      redis.call('HINCRBY', KEYS[3], 'lagged:' .. queue, 1)
      return
    end
  end
end

-- Whoever waits for a queue of our transport waits for its bell, see tasks/transport/scripts/put.lua.
local function put(queue, list, message)
  redis.call('LPUSH', list, message)
  redis.call('ZADD', queue .. '\6\022bell', 0, 0)
  redis.call('PEXPIRE', queue .. '\6\022bell', 10000)
end

-- What waits in a mailbox is "delivery, queue, list, message", parted by line ends, which none of the first three holds.
local function send(mailbox, delivery, queue, list, message)
  if mailbox ~= '' and not redis.call('SET', mailbox .. ':head', delivery, 'NX') then
    redis.call('RPUSH', mailbox, table.concat({delivery, queue, list, message}, '\n'))
    redis.call('HINCRBY', KEYS[5], queue, 1)
  else
    put(queue, list, message)
  end
end
local function go_on(mailbox, settled)
  if mailbox == '' or redis.call('GET', mailbox .. ':head') ~= settled then
    return
  end
  local following = redis.call('LPOP', mailbox)
  if not following then
    redis.call('DEL', mailbox .. ':head')
    return
  end
  local delivery, queue, list, message = following:match('^(.-)\n(.-)\n(.-)\n(.*)$')
  redis.call('HINCRBY', KEYS[5], queue, -1)
  redis.call('SET', mailbox .. ':head', delivery)
  put(queue, list, message)
end

-- First pass, which changes nothing: Redis does not take back what was done before a script stopped.
local key, arg = FIRST_KEY, FIRST_ARG
local room = {}
for _ = 1, events do
  local messages = tonumber(ARGV[arg + 2])
  local is_new = redis.call('EXISTS', KEYS[key]) == 0
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
      room[queue] = (room[queue] or capacity - waiting(queue)) - 1
      if room[queue] < 0 then
        return {'full', queue}
      end
    end
  end
  key = key + 3 + messages
  arg = arg + 3 + messages * PER_MESSAGE
end

local answer = {'published'}
key, arg = FIRST_KEY, FIRST_ARG
for _ = 1, events do
  local messages = tonumber(ARGV[arg + 2])
  if redis.call('EXISTS', KEYS[key]) == 1 then
    answer[#answer + 1] = 0
  else
    append(KEYS[2], {KEYS[key + 1], KEYS[key + 2]}, ARGV[arg], ARGV[2], ARGV[3], ARGV[4])
    for number = 0, messages - 1 do
      local message = arg + 3 + number * PER_MESSAGE
      local queue, capacity = ARGV[message + 1], tonumber(ARGV[message + 2])
      if capacity > 0 and ARGV[message + 3] == '1' then
        while waiting(queue) >= capacity do
          drop_oldest(queue)
        end
      end
      send(ARGV[message + 5], ARGV[message + 4], queue, KEYS[key + 3 + number], ARGV[message] .. ARGV[arg + 1])
    end
    if messages == 0 then
      redis.call('HINCRBY', KEYS[3], 'unrouted', 1)
    end
    redis.call('SET', KEYS[key], 'done', 'PX', ARGV[5])
    answer[#answer + 1] = 1
  end
  key = key + 3 + messages
  arg = arg + 3 + messages * PER_MESSAGE
end
if has_mark then
  redis.call('SET', KEYS[4], 'done', 'PX', ARGV[6])
  go_on(KEYS[6], ARGV[7])
end
return answer
