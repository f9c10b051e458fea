-- Stands before scripts that write drafts, which call `put` and `now_ms`.
-- Promise: a piece's number is the one after its stream's last piece. The first of a stream is numbered by the time in
-- ms, so that numbers go up even where an earlier stream of that name was forgotten.
local function now_ms()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end
local function put(stream, limits, answer, flow, attempt, kind, text)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  local number = last[1] and tonumber(last[1][1]:match('^%d+')) + 1 or now_ms()
  local entry = string.format('%.0f-0', number)
  redis.call('XADD', stream, 'MAXLEN', '=', limits.length, entry,
    'answer', answer, 'flow', flow, 'attempt', attempt, 'kind', kind, 'text', text)
  redis.call('PEXPIRE', stream, limits.age)
  return number
end
