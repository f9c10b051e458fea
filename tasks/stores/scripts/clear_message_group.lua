-- Drops the deliveries that wait in a message group. Prepended: history.lua, deliveries.lua.
-- ARGV: prefix, message group
-- Returns their number.
local group = prefix .. ':message_groups:' .. ARGV[2]
local waiting, counts = redis.call('LRANGE', group, 0, -1), {}
for _, item in ipairs(waiting) do
  local list, entry = item:match('^(.-)\n(.*)$')
  end_delivery(counts, entry)
  redis.call('HINCRBY', prefix .. ':message_groups', list:match(':queues:(.*):%d+$'), -1)
end
redis.call('DEL', group)
dereference(counts)
return #waiting
