-- ARGV: how many of the first entries to look at for the age, then targets. Answers for each: target, ready, delayed,
-- claimed, dead, paused (0 or 1), smallest created_ms seen (-1: none). What is due but was not moved yet is ready.
local out = {}
local sample = tonumber(ARGV[1])

local function created(task, oldest)
  -- Quotes inside JSON strings are escaped, so a key that holds this text does not match.
  local at = tonumber(string.match(task or '', '"created_ms":(%d+)'))
  if at and (oldest == -1 or at < oldest) then return at end
  return oldest
end

for i = 2, #ARGV do
  local target = ARGV[i]
  local length, claimed, oldest = redis.call('XLEN', ready(target)), 0, -1
  local pending = redis.pcall('XPENDING', ready(target), GROUP)
  if not pending.err then claimed = pending[1] end
  for _, entry in ipairs(redis.call('XRANGE', ready(target), '-', '+', 'COUNT', sample)) do
    oldest = created(entry[2][4], oldest)
  end
  local later = redis.call('ZCARD', delayed(target))
  local due = redis.call('ZCOUNT', delayed(target), '-inf', now)
  for _, task in ipairs(redis.call('ZRANGE', delayed(target), 0, sample - 1)) do oldest = created(task, oldest) end
  local dead = tonumber(redis.call('HGET', root .. ':dead:count', target) or 0)
  out[#out + 1] = { target, length - claimed + due, later - due, claimed, dead,
    redis.call('SISMEMBER', root .. ':paused', target), oldest }
end
return out
