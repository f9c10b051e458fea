-- KEYS: dead letters, times, states   ARGV: letter id, letter JSON, time of dead-lettering in ms
dead_letter(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
return 1
