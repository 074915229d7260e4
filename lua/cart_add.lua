#!lua
-- cart_add: put units into the owner's cart if catalogue, stock and caps allow it; all lines of the
-- request or none.
--
-- uses bucket, cart, line, catalogue, terms
-- KEYS[13]  cart  hash  the owner's active cart
-- ARGV[5+]  sku, quantity, per line; each SKU once
-- Returns   {'OK', the cart's fields and values}

local cart = open_cart(KEYS[13])
local lines = {}

local function decide_all()
  local new_lines = 0
  for i = 5, #ARGV, 2 do
    local line = open_line(cart, ARGV[i])
    -- Units that were saved for later come back with those that are added.
    local units = line.units + line.saved + whole(ARGV[i + 1])
    local reply = decide(cart, line, units)
    if reply then
      return reply[1] == 'OUT_OF_STOCK' and out_of_stock(cart, line) or reply
    end
    lines[#lines + 1] = line
    new_lines = new_lines + (line.facts and 0 or 1)
  end
  for _, line in ipairs(lines) do
    local reply = too_few(cart, line)
    if reply then
      return reply
    end
  end
  return no_place(cart, new_lines)
end

local reply = not_now(cart) or decide_all()
if reply then
  return refuse(cart, reply)
end

-- Nothing below may fail: Redis does not undo writes.

if not cart.id then
  make_cart(cart)
end
for _, line in ipairs(lines) do
  carry_out(cart, line)
end
keep(cart)
return tell(cart)
