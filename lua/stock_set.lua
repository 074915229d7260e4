#!lua
-- stock_set: set the units on hand: what carts hold of them is held, the rest is free.
--
-- uses books
-- ARGV[2]  units
-- Returns  {'OK', {free, held, sold}}
--        | {'NOT_WARM'}
--        | {'STOCK_HELD', counter, held}

local units = ARGV[2]

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
elseif not string.match(units, '^%d+$') or #units > 9 then
  error('stock is a whole number from 0 to 999999999')
end
local _, units_held = count()
if tonumber(units) < units_held then
  return { 'STOCK_HELD', counter, units_held }
end

-- Nothing below may fail: Redis does not undo writes.

restock(tonumber(units) - units_held)
return report()
