-- KEYS: requests, counters
-- ARGV: request id, responder, response id, the reply's JSON text
return deliver_reply(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
