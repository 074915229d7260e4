#!lua
-- cart_line: a line as a request describes it: its units, added or set, whether it is saved for
-- later, and its price, name and image. These are taken from an authority; from anybody else they
-- must be what the line or the catalogue has.
--
-- uses bucket, once, cart, line, catalogue, terms
-- KEYS[15]   cart       hash    the owner's active cart
-- KEYS[16+]  once       string  outcome and count, of a request with an idempotency key
-- ARGV[5]    once       '' or what lib/once says of the request
-- ARGV[6]    cart_id    only if it is this cart
-- ARGV[7]    name       the line: '<sku>', which may be new, or '#<cart id>#<line number>'
-- ARGV[8]    units
-- ARGV[9]    how        'add' to what the line has, or 'set'
-- ARGV[10]   saved      1 or 0
-- ARGV[11]   authority  1, or 0 for the owner
-- ARGV[12]   price      minor units, or '' where the request names none
-- ARGV[13]   title      a JSON string, or ''
-- ARGV[14]   image      a JSON string, or ''
-- Returns    {'OK', the cart's fields and values}
--          | {'NO_CART'}
--          | {'OUT_OF_STOCK', sku, free, in_cart}
--          | {'PRICE_DIFFERS', sku, price}
--          | {'INACTIVE_PRODUCT', product_id}

local cart = open_cart(KEYS[15])
local once = open_once(ARGV[5])
local cart_id, name = ARGV[6], ARGV[7]
local units, how = whole(ARGV[8]), ARGV[9]
local saved, authority = ARGV[10], ARGV[11]
local price, title, image = ARGV[12], ARGV[13], ARGV[14]
local line

-- What a line fixes as (name, variant, images). A quote within a JSON string is escaped, so these
-- names of fields stand in none.
local function parts_of(about)
  local images_at = string.find(about, ',"images":[', 1, true) or #about + 1
  local texts, images = string.sub(about, 1, images_at - 1), string.sub(about, images_at)
  local variant_at = string.find(texts, ',"variant":', 1, true) or #texts + 1
  return string.match(string.sub(texts, 1, variant_at - 1), '^"name":(.*)$'),
    string.sub(texts, variant_at), images
end

local function without_fixed(about)
  return string.match(about, '^"fixed":1,(.*)$') or about
end

local function has_name(about)
  return title == '' or parts_of(without_fixed(about)) == title
end

local function has_image(about)
  local _, _, images = parts_of(without_fixed(about))
  return image == '' or string.find(images, ',"images":[' .. image, 1, true) == 1
end

-- The price that the line is going to have if nobody with authority names another.
local function price_due()
  return is_fixed(line) and line.price or line.record and line.record.price or line.price
end

-- Why what is named can't be, or nil.
local function decide_facts()
  local own, today = line.facts and about_of(line), line.record and line.record.about
  local is_known = (price == '' or price == price_due())
    and (own and has_name(own) or today and has_name(today))
    and (own and has_image(own) or today and has_image(today))
  if authority ~= '1' and not is_known then
    return { 'PRICE_DIFFERS', line.sku, price_due() }
  end
end

local function decide_units()
  local has = line.units + line.saved
  if how == 'add' then
    units = units + has
  end
  if units > MAX_UNITS then
    return { 'OUT_OF_STOCK', line.sku, MAX_UNITS, has }
  elseif saved == '1' then
    -- Set aside it asks for no stock; but nobody sets aside what is not for sale any more.
    return not (line.facts or line.record.active)
      and { 'INACTIVE_PRODUCT', line.record.product_id } or nil
  elseif units > line.units then
    return decide_more(cart, line, units) or too_few(cart, line)
  elseif units < line.units then
    return decide_fewer(cart, line, units)
  end
end

local function decide_line()
  if cart.id ~= cart_id then
    return { 'NO_CART' }
  end
  local reply
  if how == 'add' then
    line = open_line(cart, name)
  else
    line, reply = find_line(cart, name)
    if reply then
      return reply
    end
  end
  if line.facts and not line.number then
    error('line ' .. line.sku .. ' of cart ' .. tostring(cart.id) .. ' is not readable')
  end
  line.record = record_of(line.sku)
  if not (line.facts or line.record) then
    return unknown(line.sku)
  end
  return decide_facts() or decide_units() or no_place(cart, line.facts and 0 or 1)
end

-- What the line fixes, with what is named put in its place.
local function about_named()
  local about = line.facts and without_fixed(about_of(line)) or line.record.about
  local own_name, variant, images = parts_of(about)
  local fixed = is_fixed(line)
  if price ~= '' then
    fixed = not line.record or price ~= line.record.price
  end
  return (fixed and '"fixed":1,' or '') .. '"name":' .. (title ~= '' and title or own_name) .. variant
    .. (has_image(about) and images or ',"images":[' .. image .. ']')
end

local function put_facts()
  local about = about_named()
  if not line.facts then
    line.price, line.about = price ~= '' and price or nil, about
    return
  end
  line.rest = string.match(line.rest, '^,"added":%d+,') .. about .. '}'
  if price ~= '' and price ~= line.price then
    change_price(cart, line, price)
  else
    write_facts(cart, line)
  end
end

local function set_aside()
  if line.facts then
    hold(cart, line, 0)
    redis.call('HDEL', cart.key, 'q:' .. line.sku)
  else
    make_line(cart, line, line.price or line.record.price, line.about or line.record.about)
  end
  redis.call('HSET', cart.key, 's:' .. line.sku, units)
end

local seen = answered(once)
if seen then
  return seen
end
local reply = not_now(cart) or decide_line()
if reply then
  return conclude(once, refuse(cart, reply))
end

-- Nothing below may fail: Redis does not undo writes.

if authority == '1' then
  put_facts()
end
if saved == '1' then
  set_aside()
elseif line.next_units then
  carry_out(cart, line)
end
if line.record then
  take_price(cart, line, line.record.price)
end
if line.facts then
  touch(cart, line)
end
keep(cart)
return conclude(once, authority == '1' and show(cart) or tell(cart))
