-- Returns the entries of a stream that have these ids, in the order of the ids; one that was removed is left out.
-- ARGV: the stream, ids
local entries = {}
for index = 2, #ARGV do
  local entry = redis.call('XRANGE', ARGV[1], ARGV[index], ARGV[index])[1]
  if entry then
    table.insert(entries, entry)
  end
end
return entries
