-- ARGV: most tasks in all, most per target, lease in ms, a random number, then the targets not wanted. Answers target, id, attempts and task of each entry, flat.
--
-- Only targets on the agenda (target -> when to look) or with a lease that may have ended are looked at, so idle targets
-- cost nothing. One look: due tasks join the stream, ended leases are taken over, new entries are read.
local left, per_target, lease, random = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Due tasks moved by one look: keeps a look short when very many come due together.
local MOVE = 256

local out = {}
local function give(target, id, fields, more)
  local tries, task = 0, nil
  for i = 1, #fields, 2 do
    if fields[i] == 'attempts' then tries = tonumber(fields[i + 1]) or 0 end
    if fields[i] == 'task' then task = fields[i + 1] end
  end
  out[#out + 1] = target
  out[#out + 1] = id
  out[#out + 1] = tostring(tries + more)
  out[#out + 1] = task or table.concat(fields, ' ')
end

-- Runs a command on the group, which is made where it is missing (first use, or a server restarted empty).
local function grouped(target, ...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'NOGROUP', 1, true) then
    redis.call('XGROUP', 'CREATE', ready(target), GROUP, '0', 'MKSTREAM')
    return redis.call(...)
  end
  if type(reply) == 'table' and reply.err then error(reply.err) end
  return reply
end

local function move_due(target)
  local due = redis.call('ZRANGEBYSCORE', delayed(target), '-inf', now, 'LIMIT', 0, MOVE)
  for _, task in ipairs(due) do
    local hash = redis.sha1hex(task)
    local tries = redis.call('HGET', attempts(target), hash)
    if tries then redis.call('HDEL', attempts(target), hash) end
    redis.call('ZREM', delayed(target), task)
    redis.call('XADD', ready(target), '*', 'attempts', tries or 0, 'task', task)
  end
end

-- Takes over claims that were not renewed; each such lease counts as an attempt. How many it took.
local function take_over(target, quota)
  local taken, cursor = 0, '0-0'
  repeat
    local reply = grouped(target, 'XAUTOCLAIM', ready(target), GROUP, CONSUMER, lease, cursor, 'COUNT', quota - taken)
    cursor = reply[1]
    for _, entry in ipairs(reply[2]) do
      local pending = redis.call('XPENDING', ready(target), GROUP, entry[1], entry[1], 1)
      give(target, entry[1], entry[2], pending[1][4] - 1)
      taken = taken + 1
    end
  until cursor == '0-0' or taken >= quota
  if taken < quota then
    if redis.call('XPENDING', ready(target), GROUP)[1] == 0 then
      redis.call('ZREM', LEASES, target)
    else
      redis.call('ZADD', LEASES, now + math.ceil(lease / 4), target)
    end
  end
  return taken
end

local function read_new(target, quota)
  local reply = grouped(target, 'XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', quota, 'STREAMS', ready(target), '>')
  if not reply then return 0 end
  for _, entry in ipairs(reply[1][2]) do give(target, entry[1], entry[2], 0) end
  return #reply[1][2]
end

-- When this target is to be looked at next.
local function plan(target)
  local first = redis.call('ZRANGE', delayed(target), 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', AGENDA, first[2], target)
  else
    redis.call('ZREM', AGENDA, target)
  end
end

local ended = {}
local function look(target, quota)
  move_due(target)
  local taken = 0
  if ended[target] then taken = take_over(target, quota) end
  if taken < quota then
    taken = taken + read_new(target, quota - taken)
    -- A full answer may not be all: then it stays on the agenda as it is.
    if taken < quota then plan(target) end
  end
  if taken > 0 then redis.call('ZADD', LEASES, 'NX', now + lease, target) end
  return taken
end

local skip = {}
for i = 5, #ARGV do skip[ARGV[i]] = true end
for _, target in ipairs(redis.call('SMEMBERS', root .. ':paused')) do skip[target] = true end

local wanted, seen = {}, {}
local function want(targets)
  for _, target in ipairs(targets) do
    if not skip[target] and not seen[target] then
      seen[target] = true
      wanted[#wanted + 1] = target
    end
  end
end
local over = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now)
for _, target in ipairs(over) do ended[target] = true end
want(redis.call('ZRANGEBYSCORE', AGENDA, '-inf', now))
want(over)

-- Fair under `left`: each target of the round gets an equal share of what is left, what one does not use goes to the
-- next ones and, in another round, to those that have more. The round begins at a random place.
local round, taken = {}, {}
for i = 1, #wanted do round[i] = wanted[(random + i) % #wanted + 1] end
while left > 0 and #round > 0 do
  local again = {}
  for i, target in ipairs(round) do
    if left == 0 then break end
    local had = taken[target] or 0
    local quota = math.min(math.ceil(left / (#round - i + 1)), per_target - had)
    local got = look(target, quota)
    taken[target] = had + got
    left = left - got
    if got == quota and taken[target] < per_target then again[#again + 1] = target end
  end
  round = again
end
return out
