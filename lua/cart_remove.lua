#!lua
-- cart_remove: take lines out of the cart, saved ones too; all of them where none is named.
--
-- uses bucket, cart, line
-- KEYS[13]  cart     hash  the owner's active cart
-- ARGV[5]   cart_id  only if it is this cart; '' for whichever it is
-- ARGV[6]   by_owner 1, or 0 if somebody else asks
-- ARGV[7+]  name, per line: '<sku>' or '#<cart id>#<line number>'
-- Returns   {'OK', the cart's fields and values}
--         | {'NO_CART'}

local cart = open_cart(KEYS[13])
local cart_id, by_owner = ARGV[5], ARGV[6]
local lines = {}

local function find_all()
  if not cart.id or cart_id ~= '' and cart_id ~= cart.id then
    return { 'NO_CART' }
  elseif #ARGV < 7 then
    lines = all_lines(cart)
  end
  local seen = {}
  for i = 7, #ARGV do
    local line, reply = find_line(cart, ARGV[i])
    if reply then
      return reply
    elseif not seen[line.sku] then
      seen[line.sku] = true
      lines[#lines + 1] = line
    end
  end
end

local reply = not_now(cart) or find_all()
if reply then
  return refuse(cart, reply)
end

-- Nothing below may fail: Redis does not undo writes.

for _, line in ipairs(lines) do
  remove_line(cart, line)
end
if #lines > 0 then
  keep(cart)
end
return by_owner == '1' and tell(cart) or show(cart)
