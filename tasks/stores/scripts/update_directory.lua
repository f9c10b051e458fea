-- Register, restore and unregister subscriptions. If something changed, the version grows and the change is logged.
-- An unregistered subscription keeps an empty entry, which tells it from one that was lost. The first version of an empty
-- directory is the time, and a restored one has a number above the known one: after a loss, no number stands for something
-- else than before.
-- Returns 1 if something changed.
-- A new one is noted with its time; a restored one is not, as it may be older.
-- KEYS: directory, directory:version, directory:changes, directory:announced
-- ARGV: most changes that the log keeps, most subscriptions of a logged change,
--       '' to register, or the last version known to a worker that restores what was lost,
--       name, subscription JSON ('': unregister), name, subscription JSON, ...
local DIRECTORY, VERSION, CHANGES, ANNOUNCED = unpack(KEYS)
local clock = redis.call('TIME')
local time = clock[1] * 1000 + math.floor(clock[2] / 1000)
local OLDEST = 1000000000000 -- a time in 2001: what is below it was counted from nothing
local known = tonumber(ARGV[3])
local changed = {}
for index = 4, #ARGV, 2 do
  local name, subscription = ARGV[index], ARGV[index + 1]
  local present = redis.call('HGET', DIRECTORY, name)
  local was_withdrawn = known and present == ''
  if (present or '') ~= subscription and not was_withdrawn then
    redis.call('HSET', DIRECTORY, name, subscription)
    if subscription == '' then
      redis.call('HDEL', ANNOUNCED, name)
    elseif not known and (present or '') == '' then
      redis.call('HSETNX', ANNOUNCED, name, string.format('%.0f', time))
    end
    changed[#changed + 1] = name
    changed[#changed + 1] = subscription
  end
end
local version = tonumber(redis.call('GET', VERSION) or 0)
local is_older = known and version < known
if #changed == 0 and not is_older then
  return 0
end
if known or version < OLDEST then
  redis.call('SET', VERSION, string.format('%.0f', math.max(version + 1, (known or 0) + 1, time)))
  redis.call('DEL', CHANGES)
  return 1
end
version = redis.call('INCR', VERSION)
if #changed > 2 * tonumber(ARGV[2]) then
  redis.call('DEL', CHANGES)
else
  -- As text: cjson writes 14 digits of a number.
  redis.call('RPUSH', CHANGES, cjson.encode({version = string.format('%.0f', version), changed = changed}))
  redis.call('LTRIM', CHANGES, -tonumber(ARGV[1]), -1)
end
return 1
