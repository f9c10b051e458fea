-- Promise: who joins a session that is not over is among its participants, once; who leaves is not.
-- KEYS: session   ARGV: participant id, participant JSON ('' leaves), time to live in ms
-- Returns 'stored', 'ended' or 'not_found'.
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
