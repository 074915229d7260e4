#!lua
-- cart_make: an empty cart for an owner who has none.
--
-- uses bucket, cart
-- KEYS[13]  cart  hash  the owner's active cart
-- Returns   {'OK', the cart's fields and values}
--         | {'CART_EXISTS', cart_id}

local cart = open_cart(KEYS[13])

local reply = not_now(cart)
if not reply and cart.id then
  reply = { 'CART_EXISTS', cart.id }
end
if reply then
  return refuse(cart, reply)
end

-- Nothing below may fail: Redis does not undo writes.

make_cart(cart)
keep(cart)
return tell(cart)
