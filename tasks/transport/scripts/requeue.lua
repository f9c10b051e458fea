-- Promise: each message that is still unacked, is held by whom it was found with, and was taken before `before` or by a
-- holder that is silent, goes back to its queues once; one that was acknowledged, given back, renewed or taken by
-- another in the meantime stays as it is.
-- KEYS: unacked, unacked_index, held, holders, then for each message and each of its queues: list, bell
-- ARGV: LPUSH or RPUSH, time before which a silent holder was last heard, then for each message: tag, holder or '',
--       before, number of its queues, message
-- Returns how many went back.
local silent_before, next_key, moved = tonumber(ARGV[2]), 5, 0

local function is_silent(holder)
  local heard_at = redis.call('ZSCORE', KEYS[4], holder)
  return heard_at and tonumber(heard_at) <= silent_before
end

for argument = 3, #ARGV, 5 do
  local tag, holder, before = ARGV[argument], ARGV[argument + 1], tonumber(ARGV[argument + 2])
  local queues, message = tonumber(ARGV[argument + 3]), ARGV[argument + 4]
  local taken_at = tonumber(redis.call('ZSCORE', KEYS[2], tag) or 0)
  local is_held_so = (redis.call('HGET', KEYS[3], tag) or '') == holder
  if is_held_so and (taken_at <= before or is_silent(holder)) and redis.call('HDEL', KEYS[1], tag) == 1 then
    redis.call('ZREM', KEYS[2], tag)
    redis.call('HDEL', KEYS[3], tag)
    for key = next_key, next_key + 2 * queues - 1, 2 do
      redis.call(ARGV[1], KEYS[key], message)
      redis.call('ZADD', KEYS[key + 1], 0, 0)
      redis.call('PEXPIRE', KEYS[key + 1], 10000)
    end
    moved = moved + 1
  end
  next_key = next_key + 2 * queues
end
return moved
