-- Record an event in the history and in the indexes of its stream and its flow, once.
-- Returns the state of an earlier publication of the event: new, started or done.
-- KEYS: publication, history, stream's index, flow's index
-- ARGV: event JSON, history length, index length, history age in ms, deduplication window in ms
local state = redis.call('GET', KEYS[1])
if state then
  return state
end
append_to_history(KEYS[2], {KEYS[3], KEYS[4]}, ARGV[1], ARGV[2], ARGV[3], ARGV[4])
redis.call('SET', KEYS[1], 'started', 'PX', ARGV[5])
return 'new'
