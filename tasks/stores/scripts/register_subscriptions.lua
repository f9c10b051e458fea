-- Add or update subscriptions; the version grows if and only if something changed.
-- KEYS: directory, directory:version   ARGV: name, subscription JSON, name, subscription JSON, ...
local changed = false
for index = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[index]) ~= ARGV[index + 1] then
    redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
    changed = true
  end
end
if changed then
  redis.call('INCR', KEYS[2])
end
return changed and 1 or 0
