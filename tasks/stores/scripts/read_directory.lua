-- Read what changed in the directory since a version, or all subscriptions if the log does not have every change since.
-- A version that is not in the log is one whose change is not known: it was too large, or another program made it.
-- Returns {version, 1 if all subscriptions follow, name, subscription JSON ('': unregistered), name, ...}
-- KEYS: directory, directory:version, directory:changes
-- ARGV: the version that the reader has (-1: none)
local DIRECTORY, VERSION, CHANGES = unpack(KEYS)
local version, known = tonumber(redis.call('GET', VERSION) or 0), tonumber(ARGV[1])

-- Appends the changes since the known version to an answer. Returns whether the log has them all.
local function append_changes(answer)
  if known < 0 or known > version then
    return false
  end
  if known == version then
    return true
  end
  local changes = redis.call('LRANGE', CHANGES, known - version, -1)
  for position, text in ipairs(changes) do
    local change = cjson.decode(text)
    if tonumber(change.version) ~= known + position then
      return false
    end
    for _, part in ipairs(change.changed) do
      answer[#answer + 1] = part
    end
  end
  return #changes == version - known
end

local answer = {version, 0}
if append_changes(answer) then
  return answer
end
answer = redis.call('HGETALL', DIRECTORY)
table.insert(answer, 1, version)
table.insert(answer, 2, 1)
return answer
