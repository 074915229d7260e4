#!lua
-- cart_remove: take lines out of the cart, saved ones too; where none is named, all of them.
--
-- uses bucket, once, cart, line
-- KEYS[15]   cart      hash    the owner's active cart
-- KEYS[16+]  once      string  outcome and count, of a request with an idempotency key
-- ARGV[5]    once      '' or what lib/once says of the request
-- ARGV[6]    cart_id   only if it is this cart; '' for whichever it is
-- ARGV[7]    by_owner  1, or 0 if somebody else asks
-- ARGV[8]    saved     1, or 0 if all are those that are not saved for later
-- ARGV[9+]  name, per line: '<sku>' or '#<cart id>#<line number>'
-- Returns    {'OK', the cart's fields and values}
--          | {'NO_CART'}

local cart = open_cart(KEYS[15])
local once = open_once(ARGV[5])
local cart_id, by_owner, saved = ARGV[6], ARGV[7], ARGV[8]
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
  elseif #ARGV < 9 then
    choose_all()
  end
  local seen = {}
  for i = 9, #ARGV do
    local line, reply = find_line(cart, ARGV[i])
    if reply then
      return reply
    elseif not seen[line.sku] then
      seen[line.sku] = true
      lines[#lines + 1] = line
    end
  end
end

local seen = answered(once)
if seen then
  return seen
end
local reply = not_now(cart) or find_all()
if reply then
  return conclude(once, refuse(cart, reply))
end

-- Nothing below may fail: Redis does not undo writes.

for _, line in ipairs(lines) do
  remove_line(cart, line)
end
if #lines > 0 then
  keep(cart)
end
return conclude(once, by_owner == '1' and tell(cart) or show(cart))
