-- Stands before scripts that record events, which call `append_to_history`.
-- Promise: afterwards the event is the history's last entry and stands in both indexes; the history holds no more than
-- `length` entries and, but for a remainder that the next calls remove, none older than `age`. A call removes at most
-- STEP entries by number and STEP by age: who lowers a limit stops the server for no longer than that.
local STEP = 100
local function append_to_history(history, indexes, event, length, index_length, age)
  local kept = math.max(tonumber(length), redis.call('XLEN', history) + 1 - STEP)
  local entry = redis.call('XADD', history, 'MAXLEN', '=', kept, '*', 'event', event)
  for _, index in ipairs(indexes) do
    redis.call('RPUSH', index, entry)
    redis.call('LTRIM', index, -tonumber(index_length), -1)
    redis.call('PEXPIRE', index, age)
  end
  -- An entry's id begins with the server's time in ms.
  local oldest = string.format('%.0f', math.max(0, tonumber(entry:match('^%d+')) - tonumber(age)))
  if #redis.call('XRANGE', history, '-', '(' .. oldest, 'COUNT', 1) > 0 then
    local old = redis.call('XRANGE', history, '-', '(' .. oldest, 'COUNT', STEP + 1)
    redis.call('XTRIM', history, 'MINID', '=', old[STEP + 1] and old[STEP + 1][1] or oldest)
  end
end

