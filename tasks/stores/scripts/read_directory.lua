-- Read what changed in the directory since a version, or all subscriptions if the log does not have every change since.
-- A version that is not in the log is one whose change is not known: it was too large, or another program made it.
-- Returns {version, 1 if all subscriptions follow, name, subscription JSON ('': unregistered), name, ...}
-- No KEYS: the server wants the right to write to those, which a service that only publishes need not have.
-- ARGV: directory, directory:version, directory:changes, the version that the reader has (-1: none)
local DIRECTORY, VERSION, CHANGES = unpack(ARGV, 1, 3)
local version, known = tonumber(redis.call('GET', VERSION) or 0), tonumber(ARGV[4])

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
