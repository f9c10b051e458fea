-- Checks a leased delivery before its handler starts.
-- Returns started, lease_lost, or aborted where the flow was aborted for this agent, or cancelled.
-- ARGV: hash of the consumer's leases, delivery tag, 1 to mark the delivery as begun, keys of the aborted and of the
--       cancelled flow (or '')
if redis.call('HEXISTS', ARGV[1], ARGV[2]) == 0 then
  return 'lease_lost'
end
if ARGV[4] ~= '' and redis.call('EXISTS', ARGV[4], ARGV[5]) > 0 then
  return 'aborted'
end
if ARGV[3] == '1' then
  -- Deleted first: a full server lets a script that has written continue.
  redis.call('HDEL', ARGV[1] .. ':slots', 'begun:' .. ARGV[2])
  redis.call('HSET', ARGV[1] .. ':slots', 'begun:' .. ARGV[2], 1)
end
return 'started'
