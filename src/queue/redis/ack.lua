-- ARGV: target and id by turns.
for target, ids in pairs(by_target(1)) do
  redis.call('XACK', ready(target), GROUP, unpack(ids))
  redis.call('XDEL', ready(target), unpack(ids))
end
