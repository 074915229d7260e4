#!lua
-- cart_save: set a line aside, saved for later, or take it back into the cart, which is decided as
-- an add is. Saved units count for nothing, and are not held.
--
-- uses bucket, once, cart, line, catalogue, terms
-- KEYS[15]   cart   hash    the owner's active cart
-- KEYS[16+]  once   string  outcome and count, of a request with an idempotency key
-- ARGV[5]    once   '' or what lib/once says of the request
-- ARGV[6]    name   the line: '<sku>' or '#<cart id>#<line number>'
-- ARGV[7]    saved  1, or 0 to take it back
-- Returns    {'OK', the cart's fields and values}

local cart = open_cart(KEYS[15])
local once = open_once(ARGV[5])
local name, saved = ARGV[6], ARGV[7]

local seen = answered(once)
if seen then
  return seen
end

local line, reply = find_line(cart, name)
reply = not_now(cart) or reply
if not reply and saved == '0' and line.saved > 0 then
  reply = decide_more(cart, line, line.saved) or too_few(cart, line)
end
if reply then
  return conclude(once, refuse(cart, reply))
end

-- Nothing below may fail: Redis does not undo writes.

if (saved == '1') == (line.saved > 0) then
  return conclude(once, tell(cart))
elseif saved == '1' then
  hold(cart, line, 0)
  redis.call('HDEL', cart.key, 'q:' .. line.sku)
  redis.call('HSET', cart.key, 's:' .. line.sku, line.units)
  touch(cart, line)
else
  carry_out(cart, line)
end
keep(cart)
return conclude(once, tell(cart))
