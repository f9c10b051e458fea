-- Returns deliveries that a consumer leases to their queues. Prepended: history.lua, deliveries.lua.
-- ARGV: prefix, consumer, how each is returned, for each: tag, and for `last` a message of another Celery client marked as
--       redelivered (or '')
--   unread     as it was: it did not start; to be fetched first, in the order of the tags
--   last       marked as redelivered, to be fetched last
--   crashed    its process crashed
-- Returns the number of returned deliveries.
local leases, slots = prefix .. ':consumers:' .. ARGV[2], prefix .. ':consumers:' .. ARGV[2] .. ':slots'
local count = 0
for place = #ARGV - 1, 4, -2 do
  local leased = redis.call('HGET', leases, ARGV[place])
  if leased then
    redis.call('HDEL', leases, ARGV[place])
    local list, entry = leased:match('^(.-)\n(.*)$')
    forget_begun(slots, ARGV[place], entry)
    local _, subscription, crashes, options, body = parse_entry(entry)
    -- A message of another Celery client returns to the list that such clients read.
    local messages = subscription == '' and options ~= '' and options
    if messages and ARGV[3] == 'unread' and crashes == '' then
      redis.call('RPUSH', messages, body)
      wake(list)
    elseif messages and ARGV[place + 1] ~= '' then
      redis.call('LPUSH', messages, ARGV[place + 1])
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
