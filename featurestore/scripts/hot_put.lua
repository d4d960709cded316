-- Put verdicts into the hot store, then trim what is over the caps. docs: featurestore/hot_verdicts.py
-- KEYS[1] <prefix>time    ARGV prefix, cutoff (us), max count, max bytes, trim budget, then (member, score, value)*
local prefix, cutoff = ARGV[1], tonumber(ARGV[2])
local max_count, max_bytes, budget = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local by_time, bodies, ids, used = KEYS[1], prefix .. 'bodies', prefix .. 'ids', prefix .. 'bytes'
local delta = 0

local function head(value)
  local decision, duplicate, score, _, length, at = struct.unpack('<BBdI4I4', value)
  local id = string.sub(value, at, at + length - 1)
  local count
  count, at = struct.unpack('<B', value, at + length)
  local entities = {}
  for i = 1, count do
    length, at = struct.unpack('<I4', value, at)
    entities[i] = prefix .. 'entity:' .. string.sub(value, at, at + length - 1)
    at = at + length
  end
  -- what the keys around a value cost, measured (tests/contract/check_hot_verdicts.py keeps it honest)
  return {decision = decision, order = duplicate, score = score, id = id, entities = entities,
          cost = #value + 2 * #id + 350 + 250 * count}
end

local function remove(member, value)
  local h = head(value)
  redis.call('ZREM', by_time, member)
  redis.call('HDEL', bodies, member)
  if h.decision > 0 then redis.call('ZREM', prefix .. 'decision:' .. h.decision, member) end
  for _, key in ipairs(h.entities) do redis.call('ZREM', key, member) end
  if redis.call('HGET', ids, h.id) == member then redis.call('HDEL', ids, h.id) end
  delta = delta - h.cost
end

local function answers_before(h, member, other, other_member)
  if h.order ~= other.order then return h.order < other.order end
  if h.score ~= other.score then return h.score < other.score end
  return member < other_member
end

for i = 6, #ARGV, 3 do
  local member, score, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local old = redis.call('HGET', bodies, member)
  if old ~= value then
    if old then remove(member, old) end
    local h = head(value)
    redis.call('ZADD', by_time, score, member)
    redis.call('HSET', bodies, member, value)
    if h.decision > 0 then redis.call('ZADD', prefix .. 'decision:' .. h.decision, score, member) end
    for _, key in ipairs(h.entities) do redis.call('ZADD', key, score, member) end
    local first = redis.call('HGET', ids, h.id)
    local known = first and redis.call('HGET', bodies, first)
    if not known or answers_before(h, member, head(known), first) then redis.call('HSET', ids, h.id, member) end
    delta = delta + h.cost
  end
end

local bytes = tonumber(redis.call('GET', used) or '0')
local count = redis.call('ZCARD', by_time)
while budget > 0 and count > 0 do
  local rows = redis.call('ZRANGE', by_time, 0, math.min(budget, 64) - 1, 'WITHSCORES')
  local done = false
  for i = 1, #rows, 2 do
    if count <= max_count and bytes + delta <= max_bytes and tonumber(rows[i + 1]) >= cutoff then
      done = true
      break
    end
    local value = redis.call('HGET', bodies, rows[i])
    if value then remove(rows[i], value) else redis.call('ZREM', by_time, rows[i]) end
    count = count - 1
    budget = budget - 1
  end
  if done then break end
end
-- %.0f: Lua's own tostring would write large numbers with an exponent
if delta ~= 0 then redis.call('INCRBY', used, string.format('%.0f', delta)) end
return count
