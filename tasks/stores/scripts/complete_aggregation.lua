-- Complete an aggregation: it takes no more parts, so every attempt of its handler gets the same ones.
-- Returns number, text, number, text, ... of its parts.
-- KEYS: aggregation   ARGV: time to live in ms
redis.call('HSETNX', KEYS[1], 'completed', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local parts = {}
local all = redis.call('HGETALL', KEYS[1])
for place = 1, #all, 2 do
  if all[place] ~= 'completed' then
    parts[#parts + 1], parts[#parts + 2] = all[place], all[place + 1]
  end
end
return parts
