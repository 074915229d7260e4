#!lua
-- cart_set: give a line another quantity. More is decided as an add is; fewer is never refused for
-- lack of stock.
--
-- uses bucket, cart, line, catalogue, terms
-- KEYS[13]  cart      hash  the owner's active cart
-- ARGV[5]   name      the line: '<sku>' or '#<cart id>#<line number>'
-- ARGV[6]   units
-- Returns   {'OK', the cart's fields and values}

local cart = open_cart(KEYS[13])
local name, units = ARGV[5], whole(ARGV[6])

local line, reply = find_line(cart, name)
reply = not_now(cart) or reply
if not reply and line.saved == 0 then
  if units > line.units then
    reply = decide(cart, line, units) or too_few(cart, line)
  elseif units < line.units then
    reply = decide_fewer(cart, line, units)
  end
end
if reply then
  return refuse(cart, reply)
end

-- Nothing below may fail: Redis does not undo writes.

if units == line.units + line.saved then
  return tell(cart)
elseif line.saved > 0 then
  redis.call('HSET', cart.key, 's:' .. line.sku, units)
  touch(cart, line)
else
  carry_out(cart, line)
end
keep(cart)
return tell(cart)
