-- Moves deliveries of a subscription to another one: those of a page of a list, with those that wait behind them in their
-- message groups; or those that wait in a message group. Prepended: history.lua, deliveries.lua.
-- ARGV: prefix, subscription, the other one, its queue, 1 if it is ordered, list ('': a message group), first index from
--       the end that workers fetch from, or the message group; number of entries to look at
-- Returns the number of moved deliveries, and how many entries of the page were moved, and its size.
local old, new, queue, is_ordered, list = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1', ARGV[6]
local groups = prefix .. ':message_groups'
local moved = 0

local function reroute(step, entry)
  local reference, _, crashes, options, body = parse_entry(entry)
  local group, former = '', nil
  if options:sub(1, 1) == '{' then
    local decoded = cjson.decode(options)
    former = decoded.group
    group = is_ordered and former and new .. former:sub(#old + 1) or ''
    decoded.group = group ~= '' and group or nil
    options = next(decoded) and cjson.encode(decoded) or ''
  end
  send_in_order(group, prefix .. ':queues:' .. queue .. step, table.concat({reference, new, crashes, options, body}, '\n'))
  moved = moved + 1
  return former
end

local function reroute_waiting(group)
  local waiting = redis.call('LRANGE', groups .. ':' .. group, 0, -1)
  redis.call('DEL', groups .. ':' .. group)
  redis.call('SREM', prefix .. ':active_message_groups', group)
  for _, item in ipairs(waiting) do
    local home, entry = item:match('^(.-)\n(.*)$')
    redis.call('HINCRBY', groups, home:match(':queues:(.*):%d+$'), -1)
    reroute(home:match(':%d+$'), entry)
  end
end

if list == '' then
  reroute_waiting(ARGV[7])
  return {moved, 0, 0}
end
local first, size, removed = tonumber(ARGV[7]), tonumber(ARGV[8]), 0
local page = redis.call('LRANGE', list, -first - size, -first - 1)
-- The oldest first.
for place = #page, 1, -1 do
  local entry = page[place]
  local _, name = parse_entry(entry)
  if name == old and redis.call('LREM', list, -1, entry) == 1 then
    removed = removed + 1
    local group = reroute(list:match(':%d+$'), entry)
    if group then
      reroute_waiting(group)
    end
  end
end
return {moved, removed, #page}
