-- KEYS: delayed, delayed:messages   ARGV: id, due in ms, value, 1 if it replaces
delay_message(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1')
return 1
