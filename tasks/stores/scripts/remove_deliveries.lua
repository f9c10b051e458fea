-- Drops the queued deliveries of a subscription in one page of a list. Prepended: history.lua, deliveries.lua.
-- ARGV: prefix, list, subscription, first index from the end that workers fetch from, number of entries to look at
-- Returns the number of dropped deliveries, and of the entries of the page.
local list, subscription, first, size = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local page, dropped = redis.call('LRANGE', list, -first - size, -first - 1), {}
for _, entry in ipairs(page) do
  local _, name = parse_entry(entry)
  if name == subscription and redis.call('LREM', list, -1, entry) == 1 then
    dropped[#dropped + 1] = entry
  end
end
drop(dropped)
return {#dropped, #page}
