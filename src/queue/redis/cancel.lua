-- ARGV: target and task by turns. What is on the agenda for them does no harm and is put right at the next look.
for i = 1, #ARGV, 2 do
  if redis.call('ZREM', delayed(ARGV[i]), ARGV[i + 1]) == 1 then
    redis.call('HDEL', attempts(ARGV[i]), redis.sha1hex(ARGV[i + 1]))
  end
end
