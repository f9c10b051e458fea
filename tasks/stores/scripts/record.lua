-- Promise: an event stands in the history, and in its stream's and its flow's index, once or not at all. Says how far
-- an earlier publication of the same event got: new, begun, done.
-- KEYS: published marker, history, stream's index, flow's index
-- ARGV: event JSON, history length, index length, index age in ms, publish window in ms
local state = redis.call('GET', KEYS[1])
if state then
  return state
end
local entry = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[1])
for index = 3, 4 do
  redis.call('RPUSH', KEYS[index], entry)
  redis.call('LTRIM', KEYS[index], -tonumber(ARGV[3]), -1)
  redis.call('PEXPIRE', KEYS[index], ARGV[4])
end
redis.call('SET', KEYS[1], 'begun', 'PX', ARGV[5])
return 'new'
