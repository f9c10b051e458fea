-- Add or remove a participant of a session that has not ended; an existing one stays unchanged.
-- Returns 'stored', 'ended' or 'not_found'.
-- KEYS: session   ARGV: participant id, participant JSON ('' removes), time to live in ms
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return 'not_found'
end
if state == 'ended' then
  return 'ended'
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], 'participant:' .. ARGV[1])
else
  redis.call('HSETNX', KEYS[1], 'participant:' .. ARGV[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'stored'
