-- Records a heartbeat of the consumer. Returns the number of its leases, or -1 if it was not registered: its deliveries
-- have been given back, or it is new.
-- ARGV: prefix, consumer
local prefix, consumer = ARGV[1], ARGV[2]
local now = redis.call('TIME')
local time = string.format('%s.%06d', now[1], now[2])
-- Removed first: a full server lets a script that has written continue.
local was_registered = redis.call('ZREM', prefix .. ':consumers', consumer) == 1
redis.call('ZADD', prefix .. ':consumers', time, consumer)
return was_registered and redis.call('HLEN', prefix .. ':consumers:' .. consumer) or -1
