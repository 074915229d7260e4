-- books: a counter's units: free + held + sold = received, always.
--
-- KEYS[1]  seq       string  the last cart id given; missing: the bucket is not warm
-- KEYS[2]  stock     hash    counter -> units free
-- KEYS[3]  held      hash    counter -> units held by carts
-- KEYS[4]  sold      hash    counter -> units sold
-- KEYS[5]  received  hash    counter -> units received
-- ARGV[1]  counter   the SKU that owns it

local seq, stock, held, sold, received = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local counter = ARGV[1]

-- Units free (nil if there is no such counter), held and sold.
local function count()
  return tonumber(redis.call('HGET', stock, counter)),
    tonumber(redis.call('HGET', held, counter) or 0),
    tonumber(redis.call('HGET', sold, counter) or 0)
end

-- Write what is free, and with it what was received.
local function restock(units_free)
  local _, units_held, units_sold = count()
  redis.call('HSET', stock, counter, units_free)
  redis.call('HSET', received, counter, units_free + units_held + units_sold)
end

local function report()
  local units_free, units_held, units_sold = count()
  return { 'OK', { units_free, units_held, units_sold } }
end
