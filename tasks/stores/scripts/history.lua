-- Prepended to scripts that record events; defines record_event and dereference.
-- The history is a stream of events, in blocks of 32. Each event is stored here once; queued deliveries refer to it by
-- `<block>/<entry id>`. `history:references` counts the references to each block. The oldest blocks are deleted beyond
-- the limits in number and age. A block with references is kept until it has none: `history:kept` holds its first entry
-- and the first entry after it. The indexes of streams and flows share 1024 lists each.
local BLOCK = 32
local history = ARGV[1] .. ':history'

local function delete_entries(first, after)
  for _, entry in ipairs(redis.call('XRANGE', history, first, '(' .. after, 'COUNT', BLOCK)) do
    redis.call('XDEL', history, entry[1])
  end
end

-- Deletes up to two old blocks, so a lowered limit does not block the server for long.
local function delete_old_blocks(now, max_events, max_age_ms)
  local blocks = history .. ':blocks'
  for _ = 1, 2 do
    local oldest = redis.call('LRANGE', blocks, 0, 1)
    if not oldest[2] then
      return
    end
    local block, first = oldest[1]:match('^(%d+)/(.*)$')
    local after = oldest[2]:match('/(.*)$')
    local is_old = tonumber(after:match('^%d+')) < now - max_age_ms
    if not is_old and redis.call('LLEN', blocks) * BLOCK < max_events + 2 * BLOCK then
      return
    end
    redis.call('LPOP', blocks)
    if redis.call('HEXISTS', history .. ':references', block) == 1 then
      redis.call('HSET', history .. ':kept', block, first .. '/' .. after)
    else
      delete_entries(first, after)
    end
  end
end

local function add_to_index(name, member, is_due)
  redis.call('RPUSH', name, member)
  if is_due then
    -- Members of deleted events, oldest first.
    local oldest_ms = tonumber((redis.call('LINDEX', history .. ':blocks', 0) or '0/0'):match('/(%d+)'))
    local deleted = 0
    for _, old in ipairs(redis.call('LRANGE', name, 0, BLOCK - 1)) do
      if tonumber(old:match(' (%d+)')) >= oldest_ms then
        break
      end
      deleted = deleted + 1
    end
    redis.call('LTRIM', name, deleted, -1)
  end
end

-- Appends an event, and its entry id to the lists of its stream and its flow. Returns its reference.
local function record_event(text, stream, stream_member, flow, flow_member, references, max_events, max_age_ms)
  local number = redis.call('INCR', history .. ':count')
  local entry = redis.call('XADD', history, '*', 'event', text)
  local block = string.format('%d', math.floor(number / BLOCK))
  local is_due = number % (BLOCK / 4) == 0
  add_to_index(stream, stream_member .. ' ' .. entry, is_due)
  add_to_index(flow, flow_member .. ' ' .. entry, is_due)
  if references > 0 then
    redis.call('HINCRBY', history .. ':references', block, references)
  end
  if number % BLOCK == 0 or number == 1 then
    redis.call('RPUSH', history .. ':blocks', block .. '/' .. entry)
    delete_old_blocks(tonumber(entry:match('^%d+')), tonumber(max_events), tonumber(max_age_ms))
  end
  return block .. '/' .. entry
end

-- Drops references, given as a table from block to their number.
local function dereference(counts)
  for block, count in pairs(counts) do
    if redis.call('HINCRBY', history .. ':references', block, -count) <= 0 then
      redis.call('HDEL', history .. ':references', block)
      local range = redis.call('HGET', history .. ':kept', block)
      if range then
        delete_entries(range:match('^(.*)/(.*)$'))
        redis.call('HDEL', history .. ':kept', block)
      end
    end
  end
end

