-- ARGV: target, 'pause' or 'resume'.
redis.call(ARGV[2] == 'pause' and 'SADD' or 'SREM', root .. ':paused', ARGV[1])
