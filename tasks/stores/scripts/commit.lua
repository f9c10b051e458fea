-- Promise: all of these events are recorded and all their messages stand in their queues, or nothing happened. Events that
-- were published before are passed over. No queue holds more than its capacity. Of each mailbox one message stands in its
-- queue at a time, the others wait in the order they came. What is to be published later waits for its time.
-- With a settling, a delivery ends in the same step: it is marked as handled, or kept as a dead letter, and its mailbox goes
-- on; or it waits for its next run, and its message is acknowledged. One that ended before, or whose lease was lost, says
-- nothing.
-- That a request is made is noted (register_reply.lua), and answers are handed to who waits (deliver_reply.lua).
-- Answers: {'published', 1 or 0 for each event (0: published before), and 2, 4 or 6 more for an answer to a request that
-- reached nobody, as it was late, foreign or a duplicate}; {'directory_changed'} where the directory is not the one that
-- the messages were made from; {'already_settled'} where the delivery ended before; {'lease_lost'} where another worker holds it;
-- {'duplicate_request'} where somebody waits already under the id of the request that is made; {'queue_full', queue} where a queue that drops nothing is full.
-- KEYS: directory:version, history, counters, mailboxes, due times, messages that wait,
--       then for each event: published marker, stream's index, flow's index, the list of each message,
--       then with a settling: inbox mark, runs, mailbox (or ''), letters, their times, their states, their replays, unacked,
--       its index, held
-- ARGV: directory version, history length, index length, history age in ms, publish window in ms, inbox age in ms,
--       settling as JSON (or ''), number of messages to wait, number of events,
--       then for each event: JSON text, tail of its messages, number of messages, then for each message: head, queue,
--       capacity (0: none), 1 where the oldest gives way, delivery, mailbox,
--       then for each message to wait: id, due in ms, value,
--       then the request that is made, and the answers, as JSON (or '')
local FIRST_KEY, FIRST_ARG, PER_MESSAGE = 7, 10, 6
local events = tonumber(ARGV[9])
local exchange = ARGV[#ARGV] ~= '' and cjson.decode(ARGV[#ARGV])
local settling = ARGV[7] ~= '' and cjson.decode(ARGV[7])
local inbox, runs, own_mailbox, letters, letter_times, letter_states, letter_replays, unacked, unacked_index, held
if settling then
  inbox, runs, own_mailbox = unpack(KEYS, #KEYS - 9)
  letters, letter_times, letter_states, letter_replays = unpack(KEYS, #KEYS - 6)
  unacked, unacked_index, held = unpack(KEYS, #KEYS - 2)
  if redis.call('EXISTS', inbox) == 1 then
    return {'already_settled'}
  end
  if settling.holder and redis.call('HGET', held, settling.tag) ~= settling.holder then
    return {'lease_lost'}
  end
end
if settling and events == 0 then
  -- A server without memory lets a script go on that has written: a delivery that ends frees some.
  redis.call('PERSIST', runs)
end
if events > 0 and (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then
  return {'directory_changed'}
end

-- Kombu keeps a queue in one list for each step of priority, the most urgent first.
local STEPS = {'', '\6\0223', '\6\0226', '\6\0229'}
local function waiting(queue)
  local count = tonumber(redis.call('HGET', KEYS[4], queue) or 0)
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

-- Whoever waits for a queue of our transport waits for its bell, see tasks/transport/scripts/publish_message.lua.
local function put(queue, list, message)
  redis.call('LPUSH', list, message)
  -- One that stands there already is heard by nobody who waits: they would have taken it.
  if redis.call('ZADD', queue .. '\6\022bell', 0, 0) == 1 then
    redis.call('PEXPIRE', queue .. '\6\022bell', 10000)
  end
end

-- What waits in a mailbox is "delivery, queue, list, message", parted by line ends, which none of the first three holds.
local function send(mailbox, delivery, queue, list, message)
  if mailbox ~= '' and not redis.call('SET', mailbox .. ':head', delivery, 'NX') then
    redis.call('RPUSH', mailbox, table.concat({delivery, queue, list, message}, '\n'))
    redis.call('HINCRBY', KEYS[4], queue, 1)
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
  redis.call('HINCRBY', KEYS[4], queue, -1)
  redis.call('SET', mailbox .. ':head', delivery)
  put(queue, list, message)
end

-- First pass, which changes nothing: Redis does not take back what was done before a script stopped.
local key, arg = FIRST_KEY, FIRST_ARG
local room, news = {}, {}
for _ = 1, events do
  local messages = tonumber(ARGV[arg + 2])
  local is_new = redis.call('EXISTS', KEYS[key]) == 0
  news[#news + 1] = is_new
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
        return {'queue_full', queue}
      end
    end
  end
  key = key + 3 + messages
  arg = arg + 3 + messages * PER_MESSAGE
end

local asked = exchange and exchange.asked
if asked and news[1] and not register_reply(exchange.table, asked.id, asked.responder, asked.reply_to, asked.timeout_ms, asked.margin_ms,
    asked.token) then
  return {'duplicate_request'}
end

local answer, texts = {'published'}, {}
key, arg = FIRST_KEY, FIRST_ARG
for _ = 1, events do
  local messages = tonumber(ARGV[arg + 2])
  texts[#texts + 1] = ARGV[arg]
  if redis.call('EXISTS', KEYS[key]) == 1 then
    answer[#answer + 1] = 0
  else
    append_to_history(KEYS[2], {KEYS[key + 1], KEYS[key + 2]}, ARGV[arg], ARGV[2], ARGV[3], ARGV[4])
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
for _ = 1, tonumber(ARGV[8]) do
  delay_message(KEYS[5], KEYS[6], ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], false)
  arg = arg + 3
end

local UNWANTED = {late = 2, wrong_responder = 4, duplicate = 6}
for _, said in ipairs(exchange and exchange.answers or {}) do
  local place = said.place
  if answer[place + 1] == 1 then
    local outcome = deliver_reply(exchange.table, KEYS[3], said.request_id, said.responder, said.response_id, texts[place])
    answer[place + 1] = 1 + (UNWANTED[outcome] or 0)
  elseif settling then
    -- This delivery ends here for the first time, and yet its answer was given: the deadline spoke for it.
    redis.call('HINCRBY', KEYS[3], 'responses_late', 1)
    answer[place + 1] = UNWANTED.late
  end
end

if not settling then
  return answer
end
if settling.ending == 'handled' or settling.ending == 'dead_lettered' then
  if settling.letter then
    redis.call('HINCRBY', KEYS[3], 'dead_lettered', 1)
    dead_letter(letters, letter_times, letter_states, settling.letter.id, settling.letter.text, settling.letter.ms)
  elseif settling.resolves then
    resolve_dead_letter(letter_states, letter_replays, settling.resolves, settling.replay)
  end
  for name, value in pairs(settling.state or {}) do
    redis.call('HSET', settling.state_key, name, value)
  end
  redis.call('SET', inbox, 'done', 'PX', ARGV[6])
  redis.call('DEL', runs)
  go_on(own_mailbox, settling.delivery)
  return answer
end
-- It comes again: the run is noted as failed, or forgotten, and the next one waits for its time.
redis.call('RPOP', runs)
if settling.run then
  redis.call('HINCRBY', KEYS[3], 'retried', 1)
  redis.call('RPUSH', runs, settling.run)
end
redis.call('PEXPIRE', runs, settling.runs_age_ms)
delay_message(KEYS[5], KEYS[6], settling.delivery, settling.due_ms, settling.value, true)
if settling.tag then
  redis.call('HDEL', unacked, settling.tag)
  redis.call('ZREM', unacked_index, settling.tag)
  redis.call('HDEL', held, settling.tag)
end
return answer
