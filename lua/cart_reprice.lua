#!lua
-- cart_reprice: give the lines of one SKU in some carts the catalogue's price, and note how far the
-- walk over its holders has come. A line that has the price already is left as it is.
--
-- uses bucket, cart, line, catalogue
-- KEYS[15]   repricing  hash  SKU -> the last of its holders that is done; '' at the beginning
-- KEYS[16+]  cart       hash  carts that hold the SKU
-- ARGV[5]    sku
-- ARGV[6]    done       the last holder before these carts
-- ARGV[7]    next_done  the last holder of these; '' when there are no more behind them
-- Returns    {'OK', how many lines changed}
--          | {'NOT_WARM'}

local repricing = KEYS[15]
local sku, done, next_done = ARGV[5], ARGV[6], ARGV[7]

local record = record_of(sku)
if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end

-- Nothing below may fail: Redis does not undo writes.

local changed = 0
for i = 16, #KEYS do
  local cart = open_cart(KEYS[i])
  local line = cart.id and record and open_line(cart, sku)
  if line and line.number and take_price(cart, line, record.price) then
    keep(cart)
    changed = changed + 1
  end
end
-- If the price changed again meanwhile, the walk begins again.
if redis.call('HGET', repricing, sku) == done then
  if next_done == '' then
    redis.call('HDEL', repricing, sku)
  else
    redis.call('HSET', repricing, sku, next_done)
  end
end
return { 'OK', changed }
