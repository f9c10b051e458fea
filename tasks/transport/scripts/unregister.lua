-- Forgets the consumers of a process that lease nothing, with those of its lost connections. One that still leases
-- something is watched until that has expired.
-- ARGV: prefix, a consumer of the process
local consumers = ARGV[1] .. ':consumers'

local function process_of(consumer)
  return consumer:match('^(.*)%.%d+$') or consumer
end

for _, consumer in ipairs(redis.call('ZRANGE', consumers, 0, -1)) do
  local leases = consumers .. ':' .. consumer
  if process_of(consumer) == process_of(ARGV[2]) and redis.call('EXISTS', leases) == 0 then
    redis.call('ZREM', consumers, consumer)
    redis.call('DEL', leases .. ':slots')
  end
end
