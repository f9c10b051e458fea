-- Promise: each message that is still unacked, and was taken before `before`, goes back to its queues once; one that
-- was acknowledged, given back or leased again in the meantime stays as it is.
-- KEYS: unacked, unacked_index, then for each message and each of its queues: list, bell
-- ARGV: LPUSH or RPUSH, before, then for each message: tag, number of its queues, message
-- Returns how many went back.
local before, next_key, moved = tonumber(ARGV[2]), 3, 0
for argument = 3, #ARGV, 3 do
  local tag, queues, message = ARGV[argument], tonumber(ARGV[argument + 1]), ARGV[argument + 2]
  local taken_at = tonumber(redis.call('ZSCORE', KEYS[2], tag) or 0)
  if taken_at <= before and redis.call('HDEL', KEYS[1], tag) == 1 then
    redis.call('ZREM', KEYS[2], tag)
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
