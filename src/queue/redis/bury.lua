-- ARGV: target of the stream, id (empty: the claim is not of this server), dead letter's id, its target (empty for
-- poison), when it died in ms, the letter. A second letter of the same work replaces the first.
if ARGV[2] ~= '' then forget(ARGV[1], ARGV[2]) end
if redis.call('HSET', root .. ':dead', ARGV[3], ARGV[6]) == 1 then
  redis.call('HINCRBY', root .. ':dead:count', ARGV[4], 1)
end
redis.call('ZADD', root .. ':dead:order', ARGV[5], ARGV[3])
