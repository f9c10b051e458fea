-- Returns 1, or 0 if the id is pending under another token.
-- KEYS: requests
-- ARGV: request id, responder, list for the reply (or ''), timeout in ms, margin in ms, token
return register_reply(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]) and 1 or 0
