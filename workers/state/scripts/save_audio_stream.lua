-- Store the state of a stream's audio and change its PCM, if nobody else has stored a state since it was read.
-- KEYS: state, PCM. ARGV: revision that was read, state, bytes of PCM to drop at the front, PCM to append, retention,
-- times that speech has started, whether it lasts (0 or 1).
-- Returns 1 if it was stored.
if (redis.call('HGET', KEYS[1], 'revision') or '0') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'revision', ARGV[1] + 1, 'state', ARGV[2], 'starts', ARGV[6], 'lasts', ARGV[7])
local dropped = tonumber(ARGV[3])
if dropped > 0 then
    local rest = redis.call('GETRANGE', KEYS[2], dropped, -1)
    redis.call('DEL', KEYS[2])
    if #rest > 0 then
        redis.call('SET', KEYS[2], rest)
    end
end
if #ARGV[4] > 0 then
    redis.call('APPEND', KEYS[2], ARGV[4])
end
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 1
