-- A page of one target's tasks. ARGV: target, which ('stream' or 'delayed'), where to begin (an entry's id, not included;
-- or a place, included), how many. Answers id, stage, attempts and task of each, flat. What is due counts as ready.
local target, from, count = ARGV[1], ARGV[3], tonumber(ARGV[4])
local out = {}

if ARGV[2] == 'delayed' then
  local page = redis.call('ZRANGE', delayed(target), from, from + count - 1, 'WITHSCORES')
  for i = 1, #page, 2 do
    out[#out + 1] = ''
    out[#out + 1] = tonumber(page[i + 1]) <= now and 'ready' or 'delayed'
    out[#out + 1] = redis.call('HGET', attempts(target), redis.sha1hex(page[i])) or '0'
    out[#out + 1] = page[i]
  end
  return out
end

-- What was delivered and still stands in the stream is claimed: the end of a claim deletes its entry.
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local last_ms, last_seq = -1, -1
local groups = redis.pcall('XINFO', 'GROUPS', ready(target))
if not groups.err and groups[1] then
  for i = 1, #groups[1], 2 do
    if groups[1][i] == 'last-delivered-id' then last_ms, last_seq = parts(groups[1][i + 1]) end
  end
end
for _, entry in ipairs(redis.call('XRANGE', ready(target), '(' .. from, '+', 'COUNT', count)) do
  local ms, seq = parts(entry[1])
  out[#out + 1] = entry[1]
  out[#out + 1] = (ms < last_ms or (ms == last_ms and seq <= last_seq)) and 'claimed' or 'ready'
  out[#out + 1] = entry[2][2] or '0'
  out[#out + 1] = entry[2][4] or ''
end
return out
