-- One page of an index, newest first. docs: featurestore/hot_verdicts.py
-- KEYS[1] the index  ARGV prefix, from, to, cursor member ('' = none), cursor score, limit, decision (-1 = any), scan
-- Answer: {1 when nothing is left, last member looked at, its score, values...}
local bodies = ARGV[1] .. 'bodies'
local from, to, member, score = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local limit, decision, scan = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local rows
local rank = member ~= '' and redis.call('ZREVRANK', KEYS[1], member)
if rank then
  rows = redis.call('ZREVRANGE', KEYS[1], rank + 1, rank + scan, 'WITHSCORES')
else
  -- trimming goes oldest first, so when the cursor's member is gone all of its time and before are gone too
  local top = member ~= '' and score or to
  rows = redis.call('ZREVRANGEBYSCORE', KEYS[1], '(' .. top, from, 'WITHSCORES', 'LIMIT', 0, scan)
end

local out, taken, lowest = {1, member, score}, 0, tonumber(from)
for i = 1, #rows, 2 do
  if tonumber(rows[i + 1]) < lowest then return out end
  if taken == limit then
    out[1] = 0
    return out
  end
  out[2], out[3] = rows[i], rows[i + 1]
  local value = redis.call('HGET', bodies, rows[i])
  if value and (decision < 0 or string.byte(value, 1) == decision) then
    taken = taken + 1
    out[3 + taken] = value
  end
end
if #rows == 2 * scan then out[1] = 0 end
return out
