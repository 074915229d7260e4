#!lua
-- product_put: replace a product's catalogue record, and give its counters their stock.
--
-- KEYS[1]   product  hash    the catalogue record
-- KEYS[2]   seq      string  the last cart id given; missing: the bucket is not warm
-- KEYS[3]   stock    hash    counter -> units free
-- ARGV[1]   count    how many counters follow
-- ARGV[2+]  counter, units, 'new' (count only if there is no such counter) or 'set', per counter;
--           then field, value, per field of the record
-- Returns   {'OK', how many counters were given their stock}
--         | {'NOT_WARM'}

local product, seq, stock = KEYS[1], KEYS[2], KEYS[3]
local count = tonumber(ARGV[1])

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
local first_field = 2 + 3 * count
for i = 2, first_field - 1, 3 do
  local units = ARGV[i + 1]
  if not string.match(units, '^%d+$') or #units > 9 then
    return redis.error_reply('ERR stock is a whole number from 0 to 999999999')
  end
end

-- Nothing below may fail: Redis does not undo writes.

-- Once several SKUs drew on one counter, carts may hold lines of all of them: shared for good.
local shared = redis.call('HGET', product, 'shared')
redis.call('DEL', product)
if shared then
  redis.call('HSET', product, 'shared', shared)
end
for i = first_field, #ARGV, 2 do
  redis.call('HSET', product, ARGV[i], ARGV[i + 1])
end
local given = 0
for i = 2, first_field - 1, 3 do
  local counter, units, when = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if when == 'set' then
    redis.call('HSET', stock, counter, units)
    given = given + 1
  else
    given = given + redis.call('HSETNX', stock, counter, units)
  end
end
return { 'OK', given }
