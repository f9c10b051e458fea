-- Requeues each message that is unacknowledged, is leased to the consumer it was found with, and either was fetched no
-- later than `before` or has a consumer whose heartbeat has expired. A message that was acknowledged, requeued, renewed
-- or fetched by another consumer in the meantime stays unchanged.
-- KEYS: unacked, unacked_index, leased, consumers, then for each message and each of its queues: list, wake-up key
-- ARGV: LPUSH or RPUSH, time before which heartbeats have expired, then for each message: tag, consumer or '', before,
--       number of its queues, message
-- Returns the number of requeued messages.
local push, silent_before, next_key, count = ARGV[1], tonumber(ARGV[2]), 5, 0

local function is_silent(consumer)
  local heartbeat_at = redis.call('ZSCORE', KEYS[4], consumer)
  return heartbeat_at and tonumber(heartbeat_at) <= silent_before
end

for index = 3, #ARGV, 5 do
  local tag, consumer, before = ARGV[index], ARGV[index + 1], tonumber(ARGV[index + 2])
  local queues, message = tonumber(ARGV[index + 3]), ARGV[index + 4]
  local fetched_at = tonumber(redis.call('ZSCORE', KEYS[2], tag) or 0)
  local is_same_lease = (redis.call('HGET', KEYS[3], tag) or '') == consumer
  if is_same_lease and (fetched_at <= before or is_silent(consumer)) and redis.call('HDEL', KEYS[1], tag) == 1 then
    redis.call('ZREM', KEYS[2], tag)
    redis.call('HDEL', KEYS[3], tag)
    for key = next_key, next_key + 2 * queues - 1, 2 do
      redis.call(push, KEYS[key], message)
      redis.call('ZADD', KEYS[key + 1], 0, 0)
      redis.call('PEXPIRE', KEYS[key + 1], 10000)
    end
    count = count + 1
  end
  next_key = next_key + 2 * queues
end
return count
