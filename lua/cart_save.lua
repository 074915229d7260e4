#!lua
-- cart_save: set a line aside, saved for later, or take it back into the cart, which is decided as
-- an add is. Saved units count for nothing, and are not held.
--
-- uses bucket, cart, line, catalogue, terms
-- KEYS[13]  cart   hash  the owner's active cart
-- ARGV[5]   name   the line: '<sku>' or '#<cart id>#<line number>'
-- ARGV[6]   saved  1, or 0 to take it back
-- Returns   {'OK', the cart's fields and values}

local cart = open_cart(KEYS[13])
local name, saved = ARGV[5], ARGV[6]

local line, reply = find_line(cart, name)
reply = not_now(cart) or reply
if not reply and saved == '0' and line.saved > 0 then
  reply = decide(cart, line, line.saved) or too_few(cart, line)
end
if reply then
  return refuse(cart, reply)
end

-- Nothing below may fail: Redis does not undo writes.

if (saved == '1') == (line.saved > 0) then
  return tell(cart)
elseif saved == '1' then
  hold(cart, line, 0)
  redis.call('HDEL', cart.key, 'q:' .. line.sku)
  redis.call('HSET', cart.key, 's:' .. line.sku, line.units)
  touch(cart, line)
else
  carry_out(cart, line)
end
keep(cart)
return tell(cart)
