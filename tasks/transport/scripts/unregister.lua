-- Forgets a consumer that leases nothing. One that still leases something is watched until that has expired.
-- ARGV: prefix, consumer
local consumers = ARGV[1] .. ':consumers'
if redis.call('EXISTS', consumers .. ':' .. ARGV[2]) == 0 then
  redis.call('ZREM', consumers, ARGV[2])
  redis.call('DEL', consumers .. ':' .. ARGV[2] .. ':slots')
end
