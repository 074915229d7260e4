#!lua
-- stock_add: take units into a counter, or out of it as far as they are free.
--
-- KEYS[1]  stock    hash    counter -> units free
-- KEYS[2]  seq      string  the last cart id given; missing: the bucket is not warm
-- ARGV[1]  counter  the SKU that owns the counter
-- ARGV[2]  units    may be negative
-- Returns  {'OK', free}
--        | {'NOT_WARM'}
--        | {'NO_COUNTER', counter}
--        | {'OUT_OF_STOCK', counter, free, in_cart = 0}

local stock, seq = KEYS[1], KEYS[2]
local counter, units = ARGV[1], ARGV[2]

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
if not string.match(units, '^-?%d+$') or #units > 10 then
  return redis.error_reply('ERR units are a whole number')
end
local free = redis.call('HGET', stock, counter)
if not free then
  return { 'NO_COUNTER', counter }
end
if tonumber(free) + tonumber(units) < 0 then
  return { 'OUT_OF_STOCK', counter, tonumber(free), 0 }
end
if tonumber(free) + tonumber(units) > 999999999 then
  return redis.error_reply('ERR stock is at most 999999999')
end

-- Nothing below may fail: Redis does not undo writes.

return { 'OK', redis.call('HINCRBY', stock, counter, units) }
