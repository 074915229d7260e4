#!lua
-- cart_release: take all lines that hold units from a cart, whatever their deadlines. The units are
-- free again, and the owner will be told.
--
-- uses bucket, cart, line
-- KEYS[15]  cart     hash  the owner's active cart
-- ARGV[5]   cart_id  only if it is this cart; '' for whichever it is
-- Returns   {'OK', the cart's fields and values}
--         | {'NOT_WARM'}
--         | {'NO_CART'}

local cart = open_cart(KEYS[15])
local cart_id = ARGV[5]

-- A hold that has run out is no reason to wait: it goes with the others.
local function decide_release()
  if redis.call('EXISTS', seq) == 0 then
    return { 'NOT_WARM' }
  elseif not cart.id then
    return is_cold(cart) or { 'NO_CART' }
  elseif cart_id ~= '' and cart_id ~= cart.id then
    return { 'NO_CART' }
  end
end

local reply = decide_release()
if reply then
  return refuse(cart, reply)
end
local lines = held_lines(cart, redis.call('HGETALL', cart.key), math.huge, math.huge)

-- Nothing below may fail: Redis does not undo writes.

take_away(cart, lines, 'released')
if cart.has_news then
  keep(cart)
end
return show(cart)
