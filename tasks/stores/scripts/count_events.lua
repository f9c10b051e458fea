-- Adds amounts to the event counts. At most `limit` event types, subscriptions and models each have a count of their own:
-- what comes later is counted as "other", so that events of many types cannot fill the server or a scrape.
-- ARGV: JSON object: the key of the counts; limit; rows of family, event type, subscription, detail, model, amount
local request = cjson.decode(ARGV[1])

local function bounded(kind, name)
  local names = request.counts .. ':' .. kind
  if name == '' or redis.call('SISMEMBER', names, name) == 1 then
    return name
  end
  if redis.call('SCARD', names) >= request.limit then
    return 'other'
  end
  redis.call('SADD', names, name)
  return name
end

for _, row in ipairs(request.rows) do
  local labels = {row[1], bounded('types', row[2]), bounded('subscriptions', row[3]), row[4]}
  if row[5] ~= '' then
    table.insert(labels, bounded('models', row[5]))
  end
  redis.call('HINCRBYFLOAT', request.counts, table.concat(labels, ' '), row[6])
end
return #request.rows
