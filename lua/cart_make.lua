#!lua
-- cart_make: an empty cart for an owner who has none.
--
-- uses bucket, once, cart
-- KEYS[15]   cart  hash    the owner's active cart
-- KEYS[16+]  once  string  outcome and count, of a request with an idempotency key
-- ARGV[5]    once  '' or what lib/once says of the request
-- Returns    {'OK', the cart's fields and values}
--          | {'CART_EXISTS', cart_id}

local cart = open_cart(KEYS[15])
local once = open_once(ARGV[5])

local seen = answered(once)
if seen then
  return seen
end

local reply = not_now(cart)
if not reply and cart.id then
  reply = { 'CART_EXISTS', cart.id }
end
if reply then
  return conclude(once, refuse(cart, reply))
end

-- Nothing below may fail: Redis does not undo writes.

make_cart(cart)
keep(cart)
return conclude(once, tell(cart))
