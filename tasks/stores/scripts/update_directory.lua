-- Register and unregister subscriptions. If something changed, the version grows and the change is logged.
-- Returns 1 if something changed.
-- KEYS: directory, directory:version, directory:changes
-- ARGV: most changes that the log keeps, most subscriptions of a logged change,
--       name, subscription JSON ('': unregister), name, subscription JSON, ...
local DIRECTORY, VERSION, CHANGES = unpack(KEYS)
local changed = {}
for index = 3, #ARGV, 2 do
  local name, subscription = ARGV[index], ARGV[index + 1]
  if (redis.call('HGET', DIRECTORY, name) or '') ~= subscription then
    if subscription == '' then
      redis.call('HDEL', DIRECTORY, name)
    else
      redis.call('HSET', DIRECTORY, name, subscription)
    end
    changed[#changed + 1] = name
    changed[#changed + 1] = subscription
  end
end
if #changed == 0 then
  return 0
end
local version = redis.call('INCR', VERSION)
if #changed > 2 * tonumber(ARGV[2]) then
  redis.call('DEL', CHANGES)
else
  redis.call('RPUSH', CHANGES, cjson.encode({version = version, changed = changed}))
  redis.call('LTRIM', CHANGES, -tonumber(ARGV[1]), -1)
end
return 1
