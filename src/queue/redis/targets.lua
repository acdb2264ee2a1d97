-- Answers every target that ever had a task or a pause, after the number of letters that are no tasks.
local targets = redis.call('SUNION', root .. ':targets', root .. ':paused')
table.sort(targets)
table.insert(targets, 1, redis.call('HGET', root .. ':dead:count', '') or '0')
return targets
