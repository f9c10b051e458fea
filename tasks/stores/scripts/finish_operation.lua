-- Promise: an effect has one outcome, the first that was noted; returns it.
-- KEYS: effect   ARGV: outcome JSON, age in ms
redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'outcome')
