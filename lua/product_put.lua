#!lua
-- product_put: write a product's records, begin counters that are new, and ask for a walk over the
-- carts that hold a SKU whose price changed.
--
-- KEYS[1]  seq         string  the last cart id given; missing: the bucket is not warm
-- KEYS[2]  catalogue   hash    SKU -> its record
-- KEYS[3]  stock       hash    counter -> units free
-- KEYS[4]  received    hash    counter -> units received
-- KEYS[5]  holders     zset    '<sku> <cart key>', by name
-- KEYS[6]  repricing   hash    SKU -> the last of its holders that is done; '' at the beginning
-- ARGV[1]  product_id
-- ARGV[2]  count       how many SKUs follow
-- ARGV[3+]  sku, record, per SKU, the product's own first; then counter, units, per counter
-- Returns  {'OK', how many counters are new}
--        | {'NOT_WARM'}

local seq, catalogue, stock, received = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holders, repricing = KEYS[5], KEYS[6]
local product_id, count = ARGV[1], tonumber(ARGV[2])
local first_counter = 3 + 2 * count

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
for i = first_counter, #ARGV, 2 do
  if not string.match(ARGV[i + 1], '^%d+$') or #ARGV[i + 1] > 9 then
    error('stock is a whole number from 0 to 999999999')
  end
end

-- Nothing below may fail: Redis does not undo writes.

local before = redis.call('HGET', catalogue, product_id) or ''
-- Carts may hold lines of variants that are gone: a product of several SKUs stays one.
local several = string.find(before, '"several":1', 1, true)
local gone = {}
local variants = string.match(before, '"variants":%[([^%]]*)%]') or ''
for variant_id in string.gmatch(variants, '"([^"]+)"') do
  gone[product_id .. '/' .. variant_id] = true
end
for i = 3, first_counter - 1, 2 do
  local sku, record = ARGV[i], ARGV[i + 1]
  local old_price = string.match(redis.call('HGET', catalogue, sku) or '', '^{"price":(%d+)')
  if several then
    record = string.gsub(record, '"several":0', '"several":1', 1)
  end
  redis.call('HSET', catalogue, sku, record)
  gone[sku] = nil
  if old_price ~= string.match(record, '^{"price":(%d+)') then
    local first_holder =
      redis.call('ZRANGEBYLEX', holders, '[' .. sku .. ' ', '(' .. sku .. '!', 'LIMIT', 0, 1)
    if first_holder[1] then
      redis.call('HSET', repricing, sku, '')
    end
  end
end
for sku in pairs(gone) do
  redis.call('HDEL', catalogue, sku)
end
local given = 0
for i = first_counter, #ARGV, 2 do
  local counter, units = ARGV[i], ARGV[i + 1]
  -- Received before, yet without units free: that is not guessed here.
  if redis.call('HSETNX', received, counter, units) == 1 then
    redis.call('HSET', stock, counter, units)
    given = given + 1
  end
end
return { 'OK', given }
