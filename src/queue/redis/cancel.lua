-- ARGV: target and task by turns. What is on the agenda for them does no harm and is put right at the next look.
for target, tasks in pairs(by_target(1)) do
  redis.call('ZREM', delayed(target), unpack(tasks))
  -- Seldom there: only what was tried before and waits to be tried again has attempts.
  if redis.call('EXISTS', attempts(target)) == 1 then
    for _, task in ipairs(tasks) do
      redis.call('HDEL', attempts(target), redis.sha1hex(task))
    end
  end
end
