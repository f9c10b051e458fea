-- Store a part of an aggregation if it is the first event of that part and the aggregation is not completed.
-- Returns 'completed' (before), 'complete' (all parts are there) or 'incomplete'.
-- KEYS: aggregation   ARGV: part's number, JSON text, number of parts, time to live in ms
if redis.call('HEXISTS', KEYS[1], 'completed') == 1 then
  return 'completed'
end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) and 'complete' or 'incomplete'
