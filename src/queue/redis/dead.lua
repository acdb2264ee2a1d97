-- A page of dead letters, the oldest first. ARGV: from which place on, how many; or an id alone: that letter. Answers how
-- many letters there are, then the page.
if #ARGV == 1 then
  local letter = redis.call('HGET', root .. ':dead', ARGV[1])
  return { letter and 1 or 0, { letter or nil } }
end
local out = {}
for _, id in ipairs(redis.call('ZRANGE', root .. ':dead:order', ARGV[1], ARGV[1] + ARGV[2] - 1)) do
  out[#out + 1] = redis.call('HGET', root .. ':dead', id)
end
return { redis.call('ZCARD', root .. ':dead:order'), out }
