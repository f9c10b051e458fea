-- Starts the n-th replay of a dead letter for one of any number of callers. Its delivery, if given, is queued or put into
-- its message group in the same step. Prepended: history.lua, deliveries.lua.
-- Without a delivery, the caller sends it: a replay without an outcome may be started again under its number after some
-- time. With one, the delivery itself is the replay.
-- Returns 'started'; 'deleted' if there is no such letter; 'replayed_meanwhile' if another number is next; else the
-- state that forbids it.
-- ARGV: prefix, letter, number, ms after which a replay may be started again, operator, list of the queue and its entry
--       (or '' and ''), message group (or '')
local letter, number, list, entry = ARGV[2], tonumber(ARGV[3]), ARGV[6], ARGV[7]
local letters = prefix .. ':dead_letters'
if redis.call('HEXISTS', letters, letter) == 0 then
  return 'deleted'
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local state = redis.call('HGET', letters .. ':states', letter) or 'pending'
local last, began_ms = (redis.call('HGET', letters .. ':replays', letter) or '0 0'):match('^(%d+) (%d+)')
local expected = last + 1
if state == 'replaying' then
  if entry ~= '' or now_ms - began_ms < tonumber(ARGV[4]) then
    return state
  end
  expected = tonumber(last)
elseif state ~= 'pending' and state ~= 'failed_again' then
  return state
end
if number ~= expected then
  return 'replayed_meanwhile'
end
if entry ~= '' then
  send_in_order(ARGV[8], list, entry)
end
redis.call('HSET', letters .. ':states', letter, 'replaying')
redis.call('HSET', letters .. ':replays', letter, string.format('%d %.0f %s', number, now_ms, ARGV[5]))
return 'started'
