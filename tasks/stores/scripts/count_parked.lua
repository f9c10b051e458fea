-- Prepended, after deliveries.lua, to scripts about parked deliveries.
-- What a delivery needs has the form `<queue>:<kind>:<name>`. Those that need the same wait in a list for each priority
-- step, `parked:<need>:<step>`; the hash `parked` describes each need.
local STEPS = {'0', '3', '6', '9'}

local function count_parked(need)
  local count = 0
  for _, step in ipairs(STEPS) do
    count = count + redis.call('LLEN', prefix .. ':parked:' .. need .. ':' .. step)
  end
  return count
end
