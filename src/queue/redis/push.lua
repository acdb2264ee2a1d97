-- ARGV: delay in ms, then target and task by turns.
for i = 2, #ARGV, 2 do
  add(ARGV[i], 0, ARGV[i + 1], tonumber(ARGV[1]))
end
