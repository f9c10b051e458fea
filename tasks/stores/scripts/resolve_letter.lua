-- Promise: a letter that is kept is noted as resolved; with a number, only while that replay of it has no outcome: what
-- failed again was marked in the inbox, and a late copy of it comes by as handled before.
-- KEYS: states, replays   ARGV: letter id, number ('': any)
local state = redis.call('HGET', KEYS[1], ARGV[1])
local last = (redis.call('HGET', KEYS[2], ARGV[1]) or ''):match('^%d+')
if not state or (ARGV[2] ~= '' and (state ~= 'replaying' or last ~= ARGV[2])) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], 'resolved')
return 1
