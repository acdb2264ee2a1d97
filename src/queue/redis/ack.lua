-- ARGV: target and id by turns.
for i = 1, #ARGV, 2 do forget(ARGV[i], ARGV[i + 1]) end
