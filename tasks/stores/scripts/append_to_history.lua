-- Prepended to scripts that record events; defines append_to_history.
-- Appends an event to the history and to both indexes. Afterwards the history holds at most `length` entries and,
-- except for a rest that later calls remove, none older than `age`. A call removes at most STEP entries by count and
-- STEP by age, so a lowered limit does not block Redis for long.
local STEP = 100
local function append_to_history(history, indexes, event, length, index_length, age)
  local kept = math.max(tonumber(length), redis.call('XLEN', history) + 1 - STEP)
  local entry = redis.call('XADD', history, 'MAXLEN', '=', kept, '*', 'event', event)
  for _, index in ipairs(indexes) do
    redis.call('RPUSH', index, entry)
    redis.call('LTRIM', index, -tonumber(index_length), -1)
    redis.call('PEXPIRE', index, age)
  end
  -- An entry id starts with the server's time in ms.
  local oldest = string.format('%.0f', math.max(0, tonumber(entry:match('^%d+')) - tonumber(age)))
  if #redis.call('XRANGE', history, '-', '(' .. oldest, 'COUNT', 1) > 0 then
    local old = redis.call('XRANGE', history, '-', '(' .. oldest, 'COUNT', STEP + 1)
    redis.call('XTRIM', history, 'MINID', '=', old[STEP + 1] and old[STEP + 1][1] or oldest)
  end
end

