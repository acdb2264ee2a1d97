-- ARGV: delay in ms, then target and task by turns.
for target, tasks in pairs(by_target(2)) do add(target, 0, tasks, tonumber(ARGV[1])) end
