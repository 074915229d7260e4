#!lua
-- stock_add: take units into a counter, or out of it as far as they are free.
--
-- uses books, once
-- KEYS[6+]  once   string  outcome and count, of a request with an idempotency key
-- ARGV[2]   units  may be negative
-- ARGV[3]   now    ms, for such a request
-- ARGV[4]   once   what lib/once says of it
-- Returns  {'OK', {free, held, sold}}
--        | {'NOT_WARM'}
--        | {'NO_COUNTER', counter}
--        | {'OUT_OF_STOCK', counter, free, in_cart = 0}

local units, now, once = ARGV[2], ARGV[3], ARGV[4]

if not string.match(units, '^-?%d+$') or #units > 10 then
  error('units are a whole number')
end
local units_free, units_held = count()

-- Why the units are not taken; nil if they are.
local function refusal()
  if redis.call('EXISTS', seq) == 0 then
    return { 'NOT_WARM' }
  elseif not units_free then
    return { 'NO_COUNTER', counter }
  elseif units_free + units < 0 then
    return { 'OUT_OF_STOCK', counter, units_free, 0 }
  elseif units_free + units_held + units > 999999999 then
    error('stock on hand is at most 999999999')
  end
  return nil
end

local request = once_of(now, once, '', KEYS[6], KEYS[7])
local seen = answered(request)
if seen then
  return seen
end
local refused = refusal()
if refused then
  return conclude(request, refused)
end

-- Nothing below may fail: Redis does not undo writes.

restock(units_free + units)
return conclude(request, report())
