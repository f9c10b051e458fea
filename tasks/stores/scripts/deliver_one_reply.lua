-- KEYS: table of all requests that are waited for, counters
-- ARGV: request id, responder, response id, the answer's JSON text
return deliver_reply(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
