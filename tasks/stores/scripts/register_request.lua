-- KEYS: table of all requests that are waited for
-- ARGV: request id, responder, list that the answer goes to (or ''), timeout in ms, margin in ms, token
-- Returns 1, or 0 where it was refused.
return register_reply(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]) and 1 or 0
