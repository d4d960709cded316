-- SET KEYS[1] to ARGV[1] unless what is stored reflects a greater source offset (first 8 bytes of either).
-- Returns 1 when written, 0 when left alone.
local head = redis.call('GETRANGE', KEYS[1], 0, 7)
if #head == 8 and struct.unpack('<i8', head) > struct.unpack('<i8', ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
