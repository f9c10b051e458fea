-- Records a heartbeat of the consumer.
-- ARGV: prefix, consumer, the time in seconds after which another consumer is silent
-- Returns the number of its leases, or -1 if it was not registered: its deliveries have been given back, or it is new;
-- the server's time in seconds; then the silent consumers, each with its last heartbeat.
local prefix, consumer = ARGV[1], ARGV[2]
local consumers = prefix .. ':consumers'
local now = redis.call('TIME')
local time = string.format('%s.%06d', now[1], now[2])
local added = redis.pcall('ZADD', consumers, time, consumer)
local was_registered = added == 0
if type(added) == 'table' then
  -- A full server lets a script that has written continue.
  was_registered = redis.call('ZREM', consumers, consumer) == 1
  redis.call('ZADD', consumers, time, consumer)
end
local count = was_registered and redis.call('HLEN', consumers .. ':' .. consumer) or -1
local limit = string.format('%.6f', now[1] + now[2] / 1000000 - tonumber(ARGV[3]))
local result = {count, time}
for _, value in ipairs(redis.call('ZRANGEBYSCORE', consumers, '-inf', limit, 'WITHSCORES', 'LIMIT', 0, 100)) do
  result[#result + 1] = value
end
return result
