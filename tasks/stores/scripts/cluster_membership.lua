-- Promise: the lives of the system and of its agents take their steps in order, each once, whoever calls how often; what
-- is to be told of them stands in the list `untold` in that order, from the same step on.
--   system   created .. starting, started, stopping, stopped
--   agent    created, starting, started, stopping, stopped; stopped alone where its last worker was lost
-- The system lives while a worker does. An agent lives while a worker serves it, and is started once one takes its events.
-- A worker belongs to the life in which it came; one that comes while the system stops waits for the next life. A system
-- that is closed stops in any case, and stays closed until its next life.
-- A worker that was silent for longer than the limit is lost. Whoever was out of touch himself judges nobody, until the
-- others had the time to be heard; a newcomer may judge.
-- Answers: {state of the system, 1 where it is closed, 1 where the caller belongs to its life, name, mark, ...}
-- KEYS: workers, what is known of each, agents' lives, marks, system, untold, directory:version
-- ARGV: worker ('': nobody), its node, phase (joining, working, leaving, gone; close), limit in s,
--       agents as JSON: name -> idle, taking, ending or resting (stopped)
local WORKERS, FACTS, LIVES, MARKS, SYSTEM, UNTOLD, VERSION = unpack(KEYS)
local me, node, phase, limit, agents = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), cjson.decode(ARGV[5])
local clock = redis.call('TIME')
local at = clock[1] .. '.' .. string.format('%06d', clock[2])
local now = tonumber(at)

local system = {}
for _, field in ipairs({'life', 'state', 'told_at', 'closed'}) do
  system[field] = redis.call('HGET', SYSTEM, field) or nil
end

local function tell(fact)
  fact.at = at
  redis.call('RPUSH', UNTOLD, cjson.encode(fact))
end
local function tell_system(step)
  tell({life = system.life, step = 'system.' .. step, before = system.told_at})
  system.told_at = at
end
local function tell_agent(life, agent, step, reason, worker)
  tell({life = life.id, step = 'agent.' .. step, agent = agent, worker = worker or node, reason = reason})
end

-- Who is there.
local workers, lost = {}, {}
local known = redis.call('HGET', FACTS, me)
if me ~= '' then
  local facts = known and cjson.decode(known) or {life = '', since = at}
  local heard = redis.call('ZSCORE', WORKERS, me)
  if not heard or now - tonumber(heard) > limit / 2 then
    facts.since = at
  end
  facts.node, facts.phase, facts.agents = node, phase, agents
  local may_judge = not known or now - tonumber(facts.since) > limit
  if phase == 'stopped' then
    redis.call('ZREM', WORKERS, me)
    redis.call('HDEL', FACTS, me)
  else
    redis.call('ZADD', WORKERS, at, me)
    redis.call('HSET', FACTS, me, cjson.encode(facts))
  end
  if may_judge then
    for _, silent in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', '(' .. string.format('%.6f', now - limit))) do
      local text = redis.call('HGET', FACTS, silent)
      local gone = text and cjson.decode(text) or {agents = {}}
      for agent in pairs(gone.agents) do
        lost[agent] = gone.node
      end
      redis.call('ZREM', WORKERS, silent)
      redis.call('HDEL', FACTS, silent)
    end
  end
end
local texts = redis.call('HGETALL', FACTS)
for index = 1, #texts, 2 do
  workers[texts[index]] = cjson.decode(texts[index + 1])
end

local function begin_system()
  system.life, system.state = at, 'starting'
  for _, step in ipairs({'created', 'features.registered', 'providers.registered', 'world.registered',
                         'builtin_agents.registered', 'user_agents.registered', 'starting'}) do
    tell_system(step)
  end
  if system.closed then
    system.closed = nil
    redis.call('INCR', VERSION)
  end
end

-- Whoever is there and belongs to no life joins the one that goes on.
local function adopt()
  for worker, facts in pairs(workers) do
    if facts.life ~= system.life and facts.phase ~= 'stopping' then
      facts.life = system.life
      redis.call('HSET', FACTS, worker, cjson.encode(facts))
    end
  end
end

local function each_agent(act)
  local names, seen = redis.call('HKEYS', LIVES), {}
  for _, facts in pairs(workers) do
    for agent in pairs(facts.agents) do
      names[#names + 1] = agent
    end
  end
  table.sort(names)
  for _, agent in ipairs(names) do
    if not seen[agent] then
      seen[agent] = true
      act(agent)
    end
  end
end

local function step_agent(agent)
  local text = redis.call('HGET', LIVES, agent)
  local life = text and cjson.decode(text) or nil
  local is_served, is_taken, is_ending = false, false, false
  for _, facts in pairs(workers) do
    local how = facts.life == system.life and facts.agents[agent]
    if how and (how == 'draining' or facts.phase == 'stopping') then
      is_ending = true
    elseif how and how ~= 'stopped' then
      is_served = is_served or system.state ~= 'stopping'
      is_ending = is_ending or system.state == 'stopping'
      is_taken = is_taken or (how == 'consuming' and facts.phase == 'running')
    end
  end
  if life and life.state ~= 'stopping' and not is_served and (is_ending or not lost[agent]) then
    tell_agent(life, agent, 'stopping')
    life.state = 'stopping'
  end
  if life and not is_ending and (life.state == 'stopping' or not is_served) then
    tell_agent(life, agent, 'stopped', lost[agent] and 'lost' or 'stopped', lost[agent])
    life = nil
  end
  if not life and is_served then
    life = {id = at, state = 'starting'}
    tell_agent(life, agent, 'created')
    tell_agent(life, agent, 'starting')
  end
  if life and life.state == 'starting' and is_served and is_taken then
    tell_agent(life, agent, 'started')
    life.state = 'started'
  end
  if life then
    redis.call('HSET', LIVES, agent, cjson.encode(life))
  else
    redis.call('HDEL', LIVES, agent)
  end
end

local function count()
  local here, belonging, staying, working = 0, 0, 0, 0
  for _, facts in pairs(workers) do
    here = here + (facts.phase ~= 'stopping' and 1 or 0)
    if system.life and facts.life == system.life then
      belonging = belonging + 1
      staying = staying + (facts.phase ~= 'stopping' and 1 or 0)
      working = working + (facts.phase == 'running' and 1 or 0)
    end
  end
  return here, belonging, staying, working
end

local function step()
  local here = count()
  if (not system.state or system.state == 'stopped') and here > 0 then
    begin_system()
  end
  if not system.state or system.state == 'stopped' then
    return false
  end
  if system.state ~= 'stopping' then
    adopt()
    local _, _, staying = count()
    if staying == 0 or system.closed then
      tell_system('stopping')
      system.state = 'stopping'
    end
  end
  each_agent(step_agent)
  local _, belonging, _, working = count()
  if system.state == 'starting' and working > 0 then
    tell_system('started')
    system.state = 'started'
  elseif system.state == 'stopping' and belonging == 0 then
    tell_system('stopped')
    system.state = 'stopped'
    return true
  end
  return false
end

if phase == 'close' and system.state and system.state ~= 'stopped' and not system.closed then
  system.closed = '1'
  redis.call('INCR', VERSION)
end
-- What ended before a newcomer came is told before its own life.
local newcomer = not known and workers[me]
if newcomer and next(lost) then
  workers[me] = nil
  step()
  workers[me] = newcomer
end
-- A second time where a life ended and somebody waits for the next.
if step() and count() > 0 then
  step()
end
for _, field in ipairs({'life', 'state', 'told_at', 'closed'}) do
  if system[field] then
    redis.call('HSET', SYSTEM, field, system[field])
  else
    redis.call('HDEL', SYSTEM, field)
  end
end

local mine = workers[me]
local answer = {system.state or 'stopped', system.closed and 1 or 0, mine and mine.life == system.life and 1 or 0}
for _, part in ipairs(redis.call('HGETALL', MARKS)) do
  answer[#answer + 1] = part
end
return answer
