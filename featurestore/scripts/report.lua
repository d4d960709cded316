-- Keep a worker's report for ARGV[3] milliseconds, and forget workers whose time is up.
--
-- KEYS[1]  sorted set: worker id -> when its report expires (ms, the server's clock, so that the workers'
--          clocks need not agree)          KEYS[2]  the report
-- ARGV     worker id, report, milliseconds
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ms)
redis.call('ZADD', KEYS[1], ms + tonumber(ARGV[3]), ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
