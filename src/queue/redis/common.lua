-- What all scripts of the queue share. KEYS[1] is the queue's key, the prefix of every other one. The names of the other
-- keys are made here, so this is for one Redis server each, not for Redis Cluster.
local root = KEYS[1]
local GROUP, CONSUMER = 'replicators', 'replicator'
local AGENDA, LEASES = root .. ':agenda', root .. ':leases'

-- The server's clock decides, so clients' clocks need not agree.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function ready(target) return root .. ':ready:' .. target end
local function delayed(target) return root .. ':delayed:' .. target end
local function attempts(target) return root .. ':attempts:' .. target end

-- What ARGV holds from there on, target and value by turns, as target -> values: one command does for all values of a target.
local function by_target(first)
  local all = {}
  for i = first, #ARGV, 2 do
    local values = all[ARGV[i]]
    if not values then
      values = {}
      all[ARGV[i]] = values
    end
    values[#values + 1] = ARGV[i + 1]
  end
  return all
end

-- Adds tasks of a target, to be given out after `delay` milliseconds. One that waits already keeps the earlier time.
local function add(target, tries, tasks, delay)
  redis.call('SADD', root .. ':targets', target)
  if delay > 0 then
    local waiting = {}
    for _, task in ipairs(tasks) do
      waiting[#waiting + 1] = now + delay
      waiting[#waiting + 1] = task
      if tries > 0 then redis.call('HSET', attempts(target), redis.sha1hex(task), tries) end
    end
    redis.call('ZADD', delayed(target), 'LT', unpack(waiting))
    redis.call('ZADD', AGENDA, 'LT', now + delay, target)
  else
    for _, task in ipairs(tasks) do
      redis.call('XADD', ready(target), '*', 'attempts', tries, 'task', task)
    end
    redis.call('ZADD', AGENDA, 'LT', 0, target)
  end
end

-- Ends a claim: the entry is gone from the group and from the stream.
local function forget(target, id)
  redis.call('XACK', ready(target), GROUP, id)
  redis.call('XDEL', ready(target), id)
end

-- Removes a dead letter; whether it was there. `target` is empty for poison.
local function unbury(id, target)
  redis.call('ZREM', root .. ':dead:order', id)
  if redis.call('HDEL', root .. ':dead', id) == 0 then return false end
  redis.call('HINCRBY', root .. ':dead:count', target, -1)
  return true
end

