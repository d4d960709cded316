-- Write blobs of one partition, and perhaps how far it is applied, if nobody else moved it on.
--
-- KEYS[1]    fs:{pipeline:p}:applied          KEYS[2..]  entity blobs, same hash tag
-- ARGV[1]    progress the caller believes is stored (decimal), '' for "nothing is stored"
-- ARGV[2]    progress being written (decimal)
-- ARGV[3]    new value of KEYS[1], '' when more chunks of this flush follow
-- ARGV[4..]  blobs, ARGV[i + 2] belongs to KEYS[i]; first 8 bytes: progress, little-endian int64
--
-- Returns -1 when written, else the progress that is stored (-2 when nothing is): the caller is fenced.
-- A stored progress equal to ARGV[2] is the caller's own write whose answer was lost: writing again is
-- harmless, as blobs are absolute values and older ones are refused.
--
-- Progress is compared as a number (exact below 2^53): comparing strings in Redis's Lua follows the locale.
local fence = redis.call('GET', KEYS[1])
if fence then
  local stored = struct.unpack('<i8', fence)
  if stored ~= tonumber(ARGV[2]) and (ARGV[1] == '' or stored ~= tonumber(ARGV[1])) then
    return stored
  end
elseif ARGV[1] ~= '' then
  return -2
end
for i = 2, #KEYS do
  local blob = ARGV[i + 2]
  local head = redis.call('GETRANGE', KEYS[i], 0, 7)
  if #head < 8 or struct.unpack('<i8', head) <= struct.unpack('<i8', blob) then
    -- nothing but its progress: an erased entity
    if #blob == 8 then
      redis.call('UNLINK', KEYS[i])
    else
      redis.call('SET', KEYS[i], blob)
    end
  end
end
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[1], ARGV[3])
end
return -1
