#!lua
-- counter_mend: count as held what carts hold, and as sold what PostgreSQL says; the rest of what
-- was received is free. Nothing is done if that is less than nothing, before or then, or if anything
-- is not as it was found.
--
-- uses books, holding
-- ARGV[2]  recorded   units received, as PostgreSQL has them: Redis must agree
-- ARGV[3]  sold_seen  units sold, as Redis had them
-- ARGV[4]  sold_next  units sold, as they should be; never fewer
-- Returns  {'OK', whether it was done: 1 or 0}
--        | {'NOT_WARM'}

local recorded, sold_seen, sold_next = ARGV[2], ARGV[3], ARGV[4]

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
local units_free, _, units_sold = count()
local units_held = units_in_carts()
local units_received = redis.call('HGET', received, counter)
if not (units_free and units_held) or units_free < 0 or units_received ~= recorded
  or units_sold ~= tonumber(sold_seen) then
  return { 'OK', 0 }
end
local rest = tonumber(recorded) - units_held - tonumber(sold_next)
if rest < 0 or tonumber(sold_next) < units_sold then
  return { 'OK', 0 }
end

-- Nothing below may fail: Redis does not undo writes.

redis.call('HSET', stock, counter, rest)
redis.call('HSET', held, counter, units_held)
redis.call('HSET', sold, counter, sold_next)
return { 'OK', 1 }
