#!lua
-- cart_add: put units into carts if catalogue, stock and caps allow it; each cart's request as if it
-- came alone: all of its lines or none, whatever becomes of the others.
--
-- uses bucket, once, cart, line, catalogue, terms
-- KEYS[15+]  cart  hash  the active cart of an owner; behind it, if the request has an idempotency
--            key, those of outcome and count
-- ARGV[5+]   known, once, lines, then per line: sku, quantity; for each cart in turn; each SKU once.
--            `known` is '<id> <version> <updated>' of the cart as the asker has it, '-' where it has
--            none; `once` is '' or what lib/once says of the request, and then nothing is known
-- Returns    {'OK', replies}; a reply is {'OK', the cart's fields and values}, only those that may have
--            changed and `since` = known if it was as the asker has it
--          | {'FAILED', message}

local function decide_all(cart, lines, first, last)
  local new_lines = 0
  for i = first, last, 2 do
    local line = open_line(cart, ARGV[i])
    -- Units that were saved for later come back with those that are added.
    local units = line.units + line.saved + whole(ARGV[i + 1])
    local reply = decide_more(cart, line, units)
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

-- Whether the cart is as the asker has it: then there is no notice either, which is a change too.
local function is_as(known, cart)
  if known == '-' then
    return false
  end
  local state = redis.call('HMGET', cart.key, 'id', 'version', 'updated')
  return known == table.concat({ state[1] or '', state[2] or '', state[3] or '' }, ' ')
end

-- What a change of these lines changes of a cart.
local function show_change(cart, lines, known)
  local names = { 'id', 'status', 'version', 'created', 'updated', 'lines', 'last_line' }
  for _, line in ipairs(lines) do
    for _, kind in ipairs({ 'q:', 'l:', 'h:', 'u:' }) do
      names[#names + 1] = kind .. line.sku
    end
  end
  local fields = { 'since', known }
  for i, value in ipairs(redis.call('HMGET', cart.key, unpack(names))) do
    if value then
      fields[#fields + 1], fields[#fields + 2] = names[i], value
    end
  end
  return { 'OK', fields }
end

-- What a request is told that met an error of Lua, or of Redis.
local function failed(message)
  return { 'FAILED', type(message) == 'table' and message.err or tostring(message) }
end

-- Put the lines that ARGV[first] to ARGV[last] name into a cart.
local function add(key, once, known, first, last)
  local seen = answered(once)
  if seen then
    return seen
  end
  forget_plans()
  local cart, lines = open_cart(key), {}
  local reply = not_now(cart) or decide_all(cart, lines, first, last)
  if reply then
    return conclude(once, refuse(cart, reply))
  end
  local is_known = is_as(known, cart)

  -- Nothing below may fail: Redis does not undo writes.

  if not cart.id then
    make_cart(cart)
  end
  for _, line in ipairs(lines) do
    carry_out(cart, line)
  end
  keep(cart)
  return is_known and show_change(cart, lines, known) or conclude(once, tell(cart))
end

local replies, key, at = {}, 15, 5
while key <= #KEYS do
  local once = once_of(ARGV[1], ARGV[at + 1], KEYS[key], KEYS[key + 1], KEYS[key + 2])
  local last = at + 2 + 2 * tonumber(ARGV[at + 2])
  local is_done, reply = pcall(add, KEYS[key], once, ARGV[at], at + 3, last)
  replies[#replies + 1] = is_done and reply or failed(reply)
  key, at = key + (once and 3 or 1), last + 1
end
return { 'OK', replies }
