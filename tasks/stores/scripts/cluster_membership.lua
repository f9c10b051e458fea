-- Record a worker's heartbeat and advance the lifecycles of the system and its agents: each transition once, in order,
-- whatever worker calls. Transitions are appended to `lifecycle:unpublished` in the same step.
--   system   created .. starting, started, stopping, stopped
--   agent    created, starting, started, stopping, stopped; only stopped after a crash of its last worker
-- - The system runs while a worker does. An agent runs while a worker serves it; it is started once a running worker
--   consumes its events.
-- - A worker belongs to the lifecycle in which it joined. A worker that joins while the system stops waits for the
--   next.
-- - A closed system stops in any case, and stays closed until its next lifecycle.
-- - A worker that was silent for longer than the timeout is lost. A worker that missed its own heartbeats must not
--   declare others lost until one timeout has passed; a new worker may.
-- Returns {state of the system, 1 if it is closed, 1 if the caller belongs to its lifecycle, agent, override, ...}
-- KEYS: workers, worker states, agent lifecycles, agent overrides, system, unpublished transitions, directory:version
-- ARGV: worker ('': none), its node, phase (starting, running, stopping, stopped; or close), timeout in s,
--       agents as JSON: name -> paused, consuming, draining or stopped
local WORKERS, STATES, LIFECYCLES, OVERRIDES, SYSTEM, UNPUBLISHED, VERSION = unpack(KEYS)
local me, node, phase, timeout, agents = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), cjson.decode(ARGV[5])
local SYSTEM_FIELDS = {'lifecycle_id', 'state', 'published_at', 'closed'}
local clock = redis.call('TIME')
local at = clock[1] .. '.' .. string.format('%06d', clock[2])
local now = tonumber(at)

local system = {}
for _, field in ipairs(SYSTEM_FIELDS) do
  system[field] = redis.call('HGET', SYSTEM, field) or nil
end

local function emit(transition)
  transition.at = at
  redis.call('RPUSH', UNPUBLISHED, cjson.encode(transition))
end
local function emit_system(step)
  emit({lifecycle_id = system.lifecycle_id, event_type = 'system.' .. step, previous_at = system.published_at})
  system.published_at = at
end
local function emit_agent(lifecycle, agent, step, reason, worker)
  emit({lifecycle_id = lifecycle.id, event_type = 'agent.' .. step, agent = agent, worker = worker or node,
    reason = reason})
end

local workers, lost = {}, {}
local known = redis.call('HGET', STATES, me)
if me ~= '' then
  local worker = known and cjson.decode(known) or {lifecycle_id = '', since = at}
  local heard_at = redis.call('ZSCORE', WORKERS, me)
  if not heard_at or now - tonumber(heard_at) > timeout / 2 then
    worker.since = at
  end
  worker.node, worker.phase, worker.agents = node, phase, agents
  local may_declare_lost = not known or now - tonumber(worker.since) > timeout
  if phase == 'stopped' then
    redis.call('ZREM', WORKERS, me)
    redis.call('HDEL', STATES, me)
  else
    redis.call('ZADD', WORKERS, at, me)
    redis.call('HSET', STATES, me, cjson.encode(worker))
  end
  if may_declare_lost then
    for _, silent in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', '(' .. string.format('%.6f', now - timeout))) do
      local text = redis.call('HGET', STATES, silent)
      local crashed = text and cjson.decode(text) or {agents = {}}
      for agent in pairs(crashed.agents) do
        lost[agent] = crashed.node
      end
      redis.call('ZREM', WORKERS, silent)
      redis.call('HDEL', STATES, silent)
    end
  end
end
local texts = redis.call('HGETALL', STATES)
for index = 1, #texts, 2 do
  workers[texts[index]] = cjson.decode(texts[index + 1])
end

local function begin_system()
  system.lifecycle_id, system.state = at, 'starting'
  for _, step in ipairs({'created', 'features.registered', 'providers.registered', 'world.registered',
                         'builtin_agents.registered', 'user_agents.registered', 'starting'}) do
    emit_system(step)
  end
  if system.closed then
    system.closed = nil
    redis.call('INCR', VERSION)
  end
end

-- Workers that belong to an earlier lifecycle, or to none, join the current one.
local function adopt_workers()
  for id, worker in pairs(workers) do
    if worker.lifecycle_id ~= system.lifecycle_id and worker.phase ~= 'stopping' then
      worker.lifecycle_id = system.lifecycle_id
      redis.call('HSET', STATES, id, cjson.encode(worker))
    end
  end
end

local function for_each_agent(call)
  local names, seen = redis.call('HKEYS', LIFECYCLES), {}
  for _, worker in pairs(workers) do
    for agent in pairs(worker.agents) do
      names[#names + 1] = agent
    end
  end
  table.sort(names)
  for _, agent in ipairs(names) do
    if not seen[agent] then
      seen[agent] = true
      call(agent)
    end
  end
end

local function advance_agent(agent)
  local text = redis.call('HGET', LIFECYCLES, agent)
  local lifecycle = text and cjson.decode(text) or nil
  local is_served, is_consumed, is_draining = false, false, false
  for _, worker in pairs(workers) do
    local serving = worker.lifecycle_id == system.lifecycle_id and worker.agents[agent]
    if serving and (serving == 'draining' or worker.phase == 'stopping') then
      is_draining = true
    elseif serving and serving ~= 'stopped' then
      is_served = is_served or system.state ~= 'stopping'
      is_draining = is_draining or system.state == 'stopping'
      is_consumed = is_consumed or (serving == 'consuming' and worker.phase == 'running')
    end
  end
  if lifecycle and lifecycle.state ~= 'stopping' and not is_served and (is_draining or not lost[agent]) then
    emit_agent(lifecycle, agent, 'stopping')
    lifecycle.state = 'stopping'
  end
  if lifecycle and not is_draining and (lifecycle.state == 'stopping' or not is_served) then
    emit_agent(lifecycle, agent, 'stopped', lost[agent] and 'lost' or 'stopped', lost[agent])
    lifecycle = nil
  end
  if not lifecycle and is_served then
    lifecycle = {id = at, state = 'starting'}
    emit_agent(lifecycle, agent, 'created')
    emit_agent(lifecycle, agent, 'starting')
  end
  if lifecycle and lifecycle.state == 'starting' and is_served and is_consumed then
    emit_agent(lifecycle, agent, 'started')
    lifecycle.state = 'started'
  end
  if lifecycle then
    redis.call('HSET', LIFECYCLES, agent, cjson.encode(lifecycle))
  else
    redis.call('HDEL', LIFECYCLES, agent)
  end
end

local function count_workers()
  local present, members, staying, running = 0, 0, 0, 0
  for _, worker in pairs(workers) do
    present = present + (worker.phase ~= 'stopping' and 1 or 0)
    if system.lifecycle_id and worker.lifecycle_id == system.lifecycle_id then
      members = members + 1
      staying = staying + (worker.phase ~= 'stopping' and 1 or 0)
      running = running + (worker.phase == 'running' and 1 or 0)
    end
  end
  return present, members, staying, running
end

-- Returns whether a lifecycle of the system ended.
local function advance()
  local present = count_workers()
  if (not system.state or system.state == 'stopped') and present > 0 then
    begin_system()
  end
  if not system.state or system.state == 'stopped' then
    return false
  end
  if system.state ~= 'stopping' then
    adopt_workers()
    local _, _, staying = count_workers()
    if staying == 0 or system.closed then
      emit_system('stopping')
      system.state = 'stopping'
    end
  end
  for_each_agent(advance_agent)
  local _, members, _, running = count_workers()
  if system.state == 'starting' and running > 0 then
    emit_system('started')
    system.state = 'started'
  elseif system.state == 'stopping' and members == 0 then
    emit_system('stopped')
    system.state = 'stopped'
    return true
  end
  return false
end

if phase == 'close' and system.state and system.state ~= 'stopped' and not system.closed then
  system.closed = '1'
  redis.call('INCR', VERSION)
end
-- Lifecycles that ended before a new worker joined end before the worker counts.
local newcomer = not known and workers[me]
if newcomer and next(lost) then
  workers[me] = nil
  advance()
  workers[me] = newcomer
end
-- Once more where a lifecycle ended and workers wait for the next one.
if advance() and count_workers() > 0 then
  advance()
end
for _, field in ipairs(SYSTEM_FIELDS) do
  if system[field] then
    redis.call('HSET', SYSTEM, field, system[field])
  else
    redis.call('HDEL', SYSTEM, field)
  end
end

local mine = workers[me]
local is_member = mine and mine.lifecycle_id == system.lifecycle_id
local answer = {system.state or 'stopped', system.closed and 1 or 0, is_member and 1 or 0}
for _, part in ipairs(redis.call('HGETALL', OVERRIDES)) do
  answer[#answer + 1] = part
end
return answer
