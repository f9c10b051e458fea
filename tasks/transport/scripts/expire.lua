-- Returns all deliveries of a consumer to their queues if it has sent no heartbeat since the given time. A delivery that
-- was marked as begun counts a crash; the others are marked as suspect. Prepended: history.lua, deliveries.lua.
-- ARGV: prefix, consumer, its last heartbeat
-- Returns the number of returned deliveries; -1 if it has sent a heartbeat.
local consumers = prefix .. ':consumers'
local leases, slots = consumers .. ':' .. ARGV[2], consumers .. ':' .. ARGV[2] .. ':slots'
-- As numbers: the protocol of the client decides how they are written.
if tonumber(redis.call('ZSCORE', consumers, ARGV[2])) ~= tonumber(ARGV[3]) then
  return -1
end
redis.call('ZREM', consumers, ARGV[2])
local tags = redis.call('HKEYS', leases)
table.sort(tags, function(first, second) return tonumber(first) > tonumber(second) end)
for _, tag in ipairs(tags) do
  local leased = redis.call('HGET', leases, tag)
  redis.call('HDEL', leases, tag)
  give_back(leased, redis.call('HEXISTS', slots, 'begun:' .. tag))
end
redis.call('DEL', slots)
return #tags
