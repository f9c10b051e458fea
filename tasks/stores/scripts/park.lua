-- Parks a delivery that the consumer leases: it waits outside its queue for a worker that knows what it needs. Its
-- message group does not advance. Prepended: history.lua, deliveries.lua, count_parked.lua.
-- ARGV: prefix, need, description, limit, consumer, delivery tag; without a consumer: id, value and due time in ms of a
--       delayed message
-- Returns parked, lease_lost, or full.
local need, description, limit, consumer, tag = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local parked, counters = prefix .. ':parked', prefix .. ':counters'
local leases = prefix .. ':consumers:' .. consumer
local leased = consumer ~= '' and redis.call('HGET', leases, tag)
if consumer ~= '' and not leased then
  return 'lease_lost'
elseif count_parked(need) >= limit then
  return 'full'
end
if leased then
  -- Deleted first: a full server lets a script that has written continue.
  redis.call('HDEL', leases, tag)
  local list, entry = leased:match('^(.-)\n(.*)$')
  forget_begun(leases .. ':slots', tag, entry)
  enqueue(parked .. ':' .. need .. list:match(':%d+$'), entry)
else
  enqueue(parked .. ':' .. need .. ':9', '\n\n\ndelayed:' .. ARGV[9] .. ':' .. ARGV[7] .. '\n' .. ARGV[8])
end
redis.call('HSETNX', parked, need, description)
redis.call('HINCRBY', counters, 'parked', 1)
return 'parked'
