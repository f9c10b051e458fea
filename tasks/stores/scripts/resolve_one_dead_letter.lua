-- KEYS: states, replays   ARGV: letter id, number of the replay ('': any)
resolve_dead_letter(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
return 1
