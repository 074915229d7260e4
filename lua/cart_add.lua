#!lua
-- cart_add: put units into carts if catalogue, stock and caps allow it; each cart's request as if it
-- came alone: all of its lines or none, whatever becomes of the others.
--
-- uses bucket, cart, line, catalogue, terms
-- KEYS[13+]  cart  hash  the active cart of an owner
-- ARGV[5+]   lines, then per line: sku, quantity; for each cart in turn; each SKU once
-- Returns    {'OK', replies}; a reply is {'OK', the cart's fields and values}
--          | {'FAILED', message}

local function decide_all(cart, lines, first, last)
  local new_lines = 0
  for i = first, last, 2 do
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

-- What a request is told that met an error of Lua, or of Redis.
local function failed(message)
  return { 'FAILED', type(message) == 'table' and message.err or tostring(message) }
end

-- Put the lines that ARGV[first] to ARGV[last] name into a cart.
local function add(key, first, last)
  forget_plans()
  local cart, lines = open_cart(key), {}
  local reply = not_now(cart) or decide_all(cart, lines, first, last)
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
end

local replies, at = {}, 5
for i = 13, #KEYS do
  local last = at + 2 * tonumber(ARGV[at])
  local is_done, reply = pcall(add, KEYS[i], at + 1, last)
  replies[#replies + 1] = is_done and reply or failed(reply)
  at = last + 1
end
return { 'OK', replies }
