-- Promise: of any number of callers, one begins the replay of a letter that has this number. With a message, that stands
-- in its queue, or waits in its mailbox, in the same step. A replay that began long ago and has no outcome yet may be
-- begun once more, under its number; its message is put there again unless it still waits in the mailbox.
-- Answers: 'started'; 'deleted' where there is no such letter; 'replayed_meanwhile' where another number is next; else the state that
-- stands against it.
-- KEYS: letters, states, replays, list of the message (or ''), mailbox (or ''), mailbox counts
-- ARGV: letter id, number, ms after which a replay may be begun again, who, delivery, queue, message ('': none)
local letter, number, delivery, queue, message = ARGV[1], tonumber(ARGV[2]), ARGV[5], ARGV[6], ARGV[7]
local list, mailbox = KEYS[4], KEYS[5]
if redis.call('HEXISTS', KEYS[1], letter) == 0 then
  return 'deleted'
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local state = redis.call('HGET', KEYS[2], letter) or 'pending'
local last, began_ms = (redis.call('HGET', KEYS[3], letter) or '0 0'):match('^(%d+) (%d+)')
local expected = last + 1
if state == 'replaying' then
  if now_ms - began_ms < tonumber(ARGV[3]) then
    return state
  end
  expected = tonumber(last)
elseif state ~= 'pending' and state ~= 'failed_again' then
  return state
end
if number ~= expected then
  return 'replayed_meanwhile'
end

local function waits_in_mailbox()
  for _, waiting in ipairs(redis.call('LRANGE', mailbox, 0, -1)) do
    if waiting:sub(1, #delivery + 1) == delivery .. '\n' then
      return true
    end
  end
end

-- As in commit.lua: whoever waits for a queue of our transport waits for its bell, and of a mailbox one message stands
-- in its queue at a time.
local function put()
  redis.call('LPUSH', list, message)
  redis.call('ZADD', queue .. '\6\022wakeup', 0, 0)
  redis.call('PEXPIRE', queue .. '\6\022wakeup', 10000)
end
if message ~= '' then
  for _, key in ipairs({list, mailbox}) do
    local kind = key ~= '' and redis.call('TYPE', key).ok or 'none'
    if kind ~= 'none' and kind ~= 'list' then
      return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind .. '; nothing was replayed')
    end
  end
  if mailbox == '' or redis.call('SET', mailbox .. ':active', delivery, 'NX') then
    put()
  elseif redis.call('GET', mailbox .. ':active') == delivery then
    put()
  elseif not (state == 'replaying' and waits_in_mailbox()) then
    redis.call('RPUSH', mailbox, table.concat({delivery, queue, list, message}, '\n'))
    redis.call('HINCRBY', KEYS[6], queue, 1)
  end
end
redis.call('HSET', KEYS[2], letter, 'replaying')
redis.call('HSET', KEYS[3], letter, string.format('%d %.0f %s', number, now_ms, ARGV[4]))
return 'started'
