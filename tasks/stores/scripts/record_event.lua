-- Records an event in the history and in the indexes of its stream and its flow, once. Prepended: history.lua.
-- Returns the state of an earlier publication of the event: new, started or done.
-- ARGV: prefix, event id, event JSON, list and member of the stream's index and of the flow's, history length,
--       history age in ms, deduplication window in ms
local publication = ARGV[1] .. ':publications:' .. ARGV[2]
local state = redis.call('GET', publication)
if state then
  return state
end
record_event(ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], 0, ARGV[8], ARGV[9])
redis.call('SET', publication, 'started', 'PX', ARGV[10])
return 'new'
