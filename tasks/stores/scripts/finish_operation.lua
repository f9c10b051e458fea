-- Store the outcome of an operation; returns the one that was stored first.
-- KEYS: operation   ARGV: outcome JSON, age in ms
redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'outcome')
