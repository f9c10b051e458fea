-- Lists the messages to requeue, those that were fetched first at first; it changes no message:
--   - messages of a consumer whose heartbeat has expired
--   - messages whose consumer has not renewed its lease
--   - messages of stock workers, which have no consumer id, after the much longer stock timeout
-- A consumer whose heartbeat has expired and that has no messages is removed.
-- KEYS: unacked, unacked_index, leased, consumers
-- ARGV: lease in seconds, stock timeout in seconds, heartbeat timeout in seconds (0: ignore heartbeats), limit
-- Returns: the time before which heartbeats have expired, then for each message: tag, consumer or '', the time before
-- which it was fetched, entry.
local limit, page, max_scanned, max_bytes = tonumber(ARGV[4]), 500, 20000, 4194304
local now = redis.call('TIME')
local function seconds_ago(seconds)
  return now[1] + now[2] / 1000000 - tonumber(seconds)
end
local function format_time(time)
  return string.format('%.6f', time)
end
local renewed_before, stock_before = seconds_ago(ARGV[1]), seconds_ago(ARGV[2])
local silent_before = tonumber(ARGV[3]) > 0 and format_time(seconds_ago(ARGV[3])) or '-inf'

local is_silent, has_messages = {}, {}
for _, consumer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', silent_before, 'LIMIT', 0, 100)) do
  is_silent[consumer] = true
end
local scan_until = next(is_silent) and '+inf' or format_time(math.max(renewed_before, stock_before))

-- Returns the time before which the message must have been fetched to be requeued, or false if it is not due.
local function due_before(consumer, fetched_at)
  if consumer and is_silent[consumer] then
    has_messages[consumer] = true
    return '-inf'
  end
  local before = consumer and renewed_before or stock_before
  return fetched_at <= before and format_time(before)
end

local result, count, bytes, orphans = { silent_before }, 0, 0, {}
local function report(tag, consumer, before)
  local entry = redis.call('HGET', KEYS[1], tag)
  if entry then
    count, bytes = count + 1, bytes + #entry
    for _, value in ipairs({ tag, consumer or '', before, entry }) do
      result[#result + 1] = value
    end
  else
    orphans[#orphans + 1] = tag
  end
end

local scanned, is_complete = 0, false
repeat
  local rows = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', scan_until, 'WITHSCORES', 'LIMIT', scanned, page)
  local tags = {}
  for index = 1, #rows, 2 do
    tags[#tags + 1] = rows[index]
  end
  local consumers = #tags > 0 and redis.call('HMGET', KEYS[3], unpack(tags)) or {}
  for index, tag in ipairs(tags) do
    local before = due_before(consumers[index], tonumber(rows[2 * index]))
    if before and count < limit and bytes < max_bytes then
      report(tag, consumers[index], before)
    end
  end
  scanned = scanned + #tags
  is_complete = #tags < page
until is_complete or count >= limit or bytes >= max_bytes or scanned >= max_scanned

for _, tag in ipairs(orphans) do
  redis.call('ZREM', KEYS[2], tag)
  redis.call('HDEL', KEYS[3], tag)
end
if not is_complete then
  return result
end

local removed = {}
for consumer in pairs(is_silent) do
  if not has_messages[consumer] then
    removed[consumer] = true
    redis.call('ZREM', KEYS[4], consumer)
  end
end
if next(removed) then
  -- Entries of removed consumers are left over from stock workers, which requeue without changing the hash `leased`.
  local cursor = '0'
  repeat
    local scan = redis.call('HSCAN', KEYS[3], cursor, 'COUNT', 1000)
    cursor = scan[1]
    for index = 1, #scan[2], 2 do
      if removed[scan[2][index + 1]] then
        redis.call('HDEL', KEYS[3], scan[2][index])
      end
    end
  until cursor == '0'
end
return result
