-- Answers every target that ever had a task or a pause, after the name that this queue has had since it was empty (ARGV[1] if
-- it has none yet) and the number of letters that are no tasks.
redis.call('SET', root .. ':id', ARGV[1], 'NX')
local targets = redis.call('SUNION', root .. ':targets', root .. ':paused')
table.sort(targets)
table.insert(targets, 1, redis.call('HGET', root .. ':dead:count', '') or '0')
table.insert(targets, 1, redis.call('GET', root .. ':id'))
return targets
