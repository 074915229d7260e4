#!lua
-- stock_set: set the units free of a counter.
--
-- KEYS[1]  stock    hash    counter -> units free
-- KEYS[2]  seq      string  the last cart id given; missing: the bucket is not warm
-- ARGV[1]  counter  the SKU that owns the counter
-- ARGV[2]  units
-- Returns  {'OK', free}
--        | {'NOT_WARM'}

local stock, seq = KEYS[1], KEYS[2]
local counter, units = ARGV[1], ARGV[2]

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
if not string.match(units, '^%d+$') or #units > 9 then
  return redis.error_reply('ERR stock is a whole number from 0 to 999999999')
end

-- Nothing below may fail: Redis does not undo writes.

redis.call('HSET', stock, counter, units)
return { 'OK', tonumber(units) }
