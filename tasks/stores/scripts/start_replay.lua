-- Start the n-th replay of a dead letter for one of any number of callers. A message is put into its queue or its
-- message group in the same step. A replay without an outcome may be started again under its number after some time;
-- its message is then sent again, unless it still waits in the message group.
-- Returns 'started'; 'deleted' if there is no such letter; 'replayed_meanwhile' if another number is next; else the
-- state that forbids it.
-- KEYS: dead letters, states, replays, list of the message (or ''), message group (or ''), message_groups
-- ARGV: letter id, number, ms after which a replay may be started again, operator, delivery, queue, message ('': none)
local letter, number, delivery, queue, message = ARGV[1], tonumber(ARGV[2]), ARGV[5], ARGV[6], ARGV[7]
local list, group = KEYS[4], KEYS[5]
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

local function waits_in_group()
  for _, waiting in ipairs(redis.call('LRANGE', group, 0, -1)) do
    if waiting:sub(1, #delivery + 1) == delivery .. '\n' then
      return true
    end
  end
end

-- As in commit.lua: wake consumers of our transport, and keep one message of a group in its queue.
local function enqueue()
  redis.call('LPUSH', list, message)
  redis.call('ZADD', queue .. '\6\022wakeup', 0, 0)
  redis.call('PEXPIRE', queue .. '\6\022wakeup', 10000)
end
if message ~= '' then
  for _, key in ipairs({list, group}) do
    local kind = key ~= '' and redis.call('TYPE', key).ok or 'none'
    if kind ~= 'none' and kind ~= 'list' then
      return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind .. '; nothing was replayed')
    end
  end
  if group == '' or redis.call('SET', group .. ':active', delivery, 'NX') then
    enqueue()
  elseif redis.call('GET', group .. ':active') == delivery then
    enqueue()
  elseif not (state == 'replaying' and waits_in_group()) then
    redis.call('RPUSH', group, table.concat({delivery, queue, list, message}, '\n'))
    redis.call('HINCRBY', KEYS[6], queue, 1)
  end
end
redis.call('HSET', KEYS[2], letter, 'replaying')
redis.call('HSET', KEYS[3], letter, string.format('%d %.0f %s', number, now_ms, ARGV[4]))
return 'started'
