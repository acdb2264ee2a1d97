-- ARGV: dead letter's id and target (empty for poison) by turns. Answers how many were still there.
local count = 0
for i = 1, #ARGV, 2 do
  if unbury(ARGV[i], ARGV[i + 1]) then count = count + 1 end
end
return count
