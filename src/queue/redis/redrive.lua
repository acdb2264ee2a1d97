-- ARGV: dead letter's id, target and task by turns. Answers how many were still there.
local count = 0
for i = 1, #ARGV, 3 do
  if unbury(ARGV[i], ARGV[i + 1]) then
    add(ARGV[i + 1], 0, { ARGV[i + 2] }, 0)
    count = count + 1
  end
end
return count
