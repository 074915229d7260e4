#!lua
-- cart_remove: take lines out of the cart, saved ones too; where none is named, all of them.
--
-- uses bucket, cart, line
-- KEYS[13]  cart      hash  the owner's active cart
-- ARGV[5]   cart_id   only if it is this cart; '' for whichever it is
-- ARGV[6]   by_owner  1, or 0 if somebody else asks
-- ARGV[7]   saved     1, or 0 if all are those that are not saved for later
-- ARGV[8+]  name, per line: '<sku>' or '#<cart id>#<line number>'
-- Returns   {'OK', the cart's fields and values}
--         | {'NO_CART'}

local cart = open_cart(KEYS[13])
local cart_id, by_owner, saved = ARGV[5], ARGV[6], ARGV[7]
local lines = {}

local function choose_all()
  for _, line in ipairs(all_lines(cart)) do
    if saved == '1' or line.saved == 0 then
      lines[#lines + 1] = line
    end
  end
end

local function find_all()
  if not cart.id or cart_id ~= '' and cart_id ~= cart.id then
    return { 'NO_CART' }
  elseif #ARGV < 8 then
    choose_all()
  end
  local seen = {}
  for i = 8, #ARGV do
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
