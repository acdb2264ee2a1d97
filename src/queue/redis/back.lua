-- A claim back into the queue. ARGV: target, id, attempts, delay in ms, task. Adds the task even if its claim is gone:
-- the server may have been restarted empty, and twice is harmless where lost is not.
if ARGV[2] ~= '' then forget(ARGV[1], ARGV[2]) end
add(ARGV[1], tonumber(ARGV[3]), { ARGV[5] }, tonumber(ARGV[4]))
