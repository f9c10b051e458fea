-- Reads what parked deliveries need, and forgets needs without deliveries. Prepended: history.lua, deliveries.lua,
-- count_parked.lua.
-- ARGV: prefix
-- Returns for each: need, description, number of deliveries.
local result = {}
local needs = redis.call('HGETALL', prefix .. ':parked')
for place = 1, #needs, 2 do
  local count = count_parked(needs[place])
  if count == 0 then
    redis.call('HDEL', prefix .. ':parked', needs[place])
  else
    local size = #result
    result[size + 1], result[size + 2], result[size + 3] = needs[place], needs[place + 1], count
  end
end
return result
