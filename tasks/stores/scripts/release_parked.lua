-- Releases parked deliveries, the oldest first: they return to their queues, or are sent by a worker. Prepended:
-- history.lua, deliveries.lua, count_parked.lua, delay_message.lua.
-- ARGV: prefix, need, number of deliveries
-- Returns how many were released.
local need, left, released = ARGV[2], tonumber(ARGV[3]), 0
local queue = prefix .. ':queues:' .. need:match('^[^:]*')
local now = redis.call('TIME')
local now_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
for _, step in ipairs(STEPS) do
  local entries = left > released and redis.call('RPOP', prefix .. ':parked:' .. need .. ':' .. step, left - released)
  for _, entry in ipairs(entries or {}) do
    local _, _, _, options, body = parse_entry(entry)
    local due_ms, id = options:match('^delayed:(%d+):(.*)$')
    if id then
      due_ms = tonumber(due_ms) > tonumber(now_ms) and due_ms or now_ms
      delay_message(prefix .. ':delayed', prefix .. ':delayed:messages', id, due_ms, body, false)
    else
      enqueue(queue .. ':' .. step, entry)
    end
    released = released + 1
  end
end
return released
