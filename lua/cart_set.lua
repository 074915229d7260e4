#!lua
-- cart_set: give a line another quantity. More is decided as an add is; fewer is never refused for
-- lack of stock.
--
-- uses bucket, once, cart, line, catalogue, terms
-- KEYS[15]   cart   hash    the owner's active cart
-- KEYS[16+]  once   string  outcome and count, of a request with an idempotency key
-- ARGV[5]    once   '' or what lib/once says of the request
-- ARGV[6]    name   the line: '<sku>' or '#<cart id>#<line number>'
-- ARGV[7]    units
-- Returns    {'OK', the cart's fields and values}

local cart = open_cart(KEYS[15])
local once = open_once(ARGV[5])
local name, units = ARGV[6], whole(ARGV[7])

local seen = answered(once)
if seen then
  return seen
end

local line, reply = find_line(cart, name)
reply = not_now(cart) or reply
if not reply and line.saved == 0 then
  if units > line.units then
    reply = decide_more(cart, line, units) or too_few(cart, line)
  elseif units < line.units then
    reply = decide_fewer(cart, line, units)
  end
end
if reply then
  return conclude(once, refuse(cart, reply))
end

-- Nothing below may fail: Redis does not undo writes.

if units == line.units + line.saved then
  return conclude(once, tell(cart))
elseif line.saved > 0 then
  redis.call('HSET', cart.key, 's:' .. line.sku, units)
  touch(cart, line)
else
  carry_out(cart, line)
end
keep(cart)
return conclude(once, tell(cart))
