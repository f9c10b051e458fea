-- Prepended to scripts that write response streams; defines now_ms and append_chunk.
-- Appends a chunk with the number after the stream's last one. The first number is the time in ms, so that numbers
-- increase even if an earlier stream of that name has expired.
local function now_ms()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end
local function append_chunk(stream, limits, answer, flow, attempt, kind, text)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  local number = last[1] and tonumber(last[1][1]:match('^%d+')) + 1 or now_ms()
  local entry = string.format('%.0f-0', number)
  redis.call('XADD', stream, 'MAXLEN', '=', limits.length, entry,
    'answer', answer, 'flow', flow, 'attempt', attempt, 'kind', kind, 'text', text)
  redis.call('PEXPIRE', stream, limits.age)
  return number
end
