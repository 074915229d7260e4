#!lua
-- stock_add: take units into a counter, or out of it as far as they are free.
--
-- uses books
-- ARGV[2]  units  may be negative
-- Returns  {'OK', {free, held, sold}}
--        | {'NOT_WARM'}
--        | {'NO_COUNTER', counter}
--        | {'OUT_OF_STOCK', counter, free, in_cart = 0}

local units = ARGV[2]

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
elseif not string.match(units, '^-?%d+$') or #units > 10 then
  error('units are a whole number')
end
local units_free, units_held = count()
if not units_free then
  return { 'NO_COUNTER', counter }
elseif units_free + units < 0 then
  return { 'OUT_OF_STOCK', counter, units_free, 0 }
elseif units_free + units_held + units > 999999999 then
  error('stock on hand is at most 999999999')
end

-- Nothing below may fail: Redis does not undo writes.

restock(units_free + units)
return report()
