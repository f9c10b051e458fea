-- Promise: says which messages should go back, those that were taken first at first; no message is changed. These are
-- what a silent holder holds; what a holder has not renewed for a lease; and what was taken without a holder, by a
-- stock worker, for the much longer time that stock workers are given. A silent holder that holds nothing is forgotten.
-- KEYS: unacked, unacked_index, held, holders
-- ARGV: lease in seconds, stock timeout in seconds, seconds after which a holder is silent (0: judge none), how many
-- Returns: the time before which a silent holder was last heard, then for each message: tag, holder or '', the time
-- before which it was taken, entry.
local limit, page, most_scanned, most_bytes = tonumber(ARGV[4]), 500, 20000, 4194304
local now = redis.call('TIME')
local function ago(seconds)
  return now[1] + now[2] / 1000000 - tonumber(seconds)
end
local function written(time)
  return string.format('%.6f', time)
end
local renewed_before, stock_before = ago(ARGV[1]), ago(ARGV[2])
local silent_before = tonumber(ARGV[3]) > 0 and written(ago(ARGV[3])) or '-inf'

local silent, holds = {}, {}
for _, holder in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', silent_before, 'LIMIT', 0, 100)) do
  silent[holder] = true
end
local until_time = next(silent) and '+inf' or written(math.max(renewed_before, stock_before))

-- Which time it must have been taken before, if it should go back.
local function due(holder, taken_at)
  if holder and silent[holder] then
    holds[holder] = true
    return '-inf'
  end
  local before = holder and renewed_before or stock_before
  return taken_at <= before and written(before)
end

local found, count, bytes, stale = { silent_before }, 0, 0, {}
local function report(tag, holder, before)
  local entry = redis.call('HGET', KEYS[1], tag)
  if entry then
    count, bytes = count + 1, bytes + #entry
    for _, word in ipairs({ tag, holder or '', before, entry }) do
      found[#found + 1] = word
    end
  else
    stale[#stale + 1] = tag
  end
end

local scanned, is_done = 0, false
repeat
  local taken = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', until_time, 'WITHSCORES', 'LIMIT', scanned, page)
  local tags = {}
  for place = 1, #taken, 2 do
    tags[#tags + 1] = taken[place]
  end
  local holders = #tags > 0 and redis.call('HMGET', KEYS[3], unpack(tags)) or {}
  for place, tag in ipairs(tags) do
    local before = due(holders[place], tonumber(taken[2 * place]))
    if before and count < limit and bytes < most_bytes then
      report(tag, holders[place], before)
    end
  end
  scanned = scanned + #tags
  is_done = #tags < page
until is_done or count >= limit or bytes >= most_bytes or scanned >= most_scanned

for _, tag in ipairs(stale) do
  redis.call('ZREM', KEYS[2], tag)
  redis.call('HDEL', KEYS[3], tag)
end
if not is_done then
  return found
end

local gone = {}
for holder in pairs(silent) do
  if not holds[holder] then
    gone[holder] = true
    redis.call('ZREM', KEYS[4], holder)
  end
end
if next(gone) then
  -- What is still written under its name was given back by a stock worker, who knows nothing of holders.
  local cursor = '0'
  repeat
    local answer = redis.call('HSCAN', KEYS[3], cursor, 'COUNT', 1000)
    cursor = answer[1]
    for place = 1, #answer[2], 2 do
      if gone[answer[2][place + 1]] then
        redis.call('HDEL', KEYS[3], answer[2][place])
      end
    end
  until cursor == '0'
end
return found
