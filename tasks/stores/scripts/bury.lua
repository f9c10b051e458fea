-- Promise: the letter is kept, as pending, or as failed again where it was kept before.
-- KEYS: letters, times, states   ARGV: letter id, letter JSON, when in ms
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
local was_replayed = redis.call('HGET', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], was_replayed and was_replayed ~= 'pending' and 'failed_again' or 'pending')
return 1
