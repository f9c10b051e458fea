-- Promise: an event stands in the history, and in its stream's and its flow's index, once or not at all. Says how far
-- an earlier publication of the same event got: new, begun, done.
-- KEYS: published marker, history, stream's index, flow's index
-- ARGV: event JSON, history length, index length, history age in ms, publish window in ms
local state = redis.call('GET', KEYS[1])
if state then
  return state
end
append_to_history(KEYS[2], {KEYS[3], KEYS[4]}, ARGV[1], ARGV[2], ARGV[3], ARGV[4])
redis.call('SET', KEYS[1], 'started', 'PX', ARGV[5])
return 'new'
