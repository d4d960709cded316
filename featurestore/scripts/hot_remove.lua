-- Remove verdicts of one entity from the hot store. docs: featurestore/hot_verdicts.py
-- KEYS[1] the entity's index    ARGV prefix, member to remove, ...     Answer: how many were there
local prefix = ARGV[1]
local delta, count = 0, 0
for i = 2, #ARGV do
  local member = ARGV[i]
  local value = redis.call('HGET', prefix .. 'bodies', member)
  if value then
    -- the head as hot_put.lua reads it
    local decision, _, _, _, length, at = struct.unpack('<BBdI4I4', value)
    local id = string.sub(value, at, at + length - 1)
    local entities
    entities, at = struct.unpack('<B', value, at + length)
    for _ = 1, entities do
      length, at = struct.unpack('<I4', value, at)
      redis.call('ZREM', prefix .. 'entity:' .. string.sub(value, at, at + length - 1), member)
      at = at + length
    end
    redis.call('ZREM', prefix .. 'time', member)
    redis.call('HDEL', prefix .. 'bodies', member)
    if decision > 0 then redis.call('ZREM', prefix .. 'decision:' .. decision, member) end
    if redis.call('HGET', prefix .. 'ids', id) == member then redis.call('HDEL', prefix .. 'ids', id) end
    delta = delta + #value + 2 * #id + 350 + 250 * entities
    count = count + 1
  end
  redis.call('ZREM', KEYS[1], member)
end
if delta ~= 0 then redis.call('DECRBY', prefix .. 'bytes', string.format('%.0f', delta)) end
return count
