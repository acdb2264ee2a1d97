-- ARGV: target and id by turns. A claim that is gone or was taken over and done is not made anew.
for i = 1, #ARGV, 2 do
  redis.pcall('XCLAIM', ready(ARGV[i]), GROUP, CONSUMER, 0, ARGV[i + 1], 'JUSTID')
end
