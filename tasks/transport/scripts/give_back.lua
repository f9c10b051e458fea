-- Returns deliveries that a consumer leases to their queues. Prepended: history.lua, deliveries.lua.
-- ARGV: prefix, consumer, how each is returned, tags
--   unread     as it was: it did not start; to be fetched first, in the order of the tags
--   last       marked as redelivered, to be fetched last
--   crashed    its process crashed
-- Returns the number of returned deliveries.
local leases, slots = prefix .. ':consumers:' .. ARGV[2], prefix .. ':consumers:' .. ARGV[2] .. ':slots'
local count = 0
for place = #ARGV, 4, -1 do
  local leased = redis.call('HGET', leases, ARGV[place])
  if leased then
    redis.call('HDEL', leases, ARGV[place])
    redis.call('HDEL', slots, 'begun:' .. ARGV[place])
    local list, entry = leased:match('^(.-)\n(.*)$')
    local _, subscription, crashes, options, body = parse_entry(entry)
    if ARGV[3] == 'unread' and subscription == '' and crashes == '' then
      -- A message of another Celery client: to the list that such clients read.
      redis.call('RPUSH', options, body)
      wake(list)
    elseif ARGV[3] == 'last' then
      enqueue(list, add_crashes(entry, 0))
    else
      give_back(leased, ARGV[3] == 'crashed' and 1 or nil)
    end
    count = count + 1
  end
end
return count
