#!lua
-- cart_add: put lines into the owner's cart if the catalogue, the stock and the cap allow it;
-- all of them or none. Lines of one request that draw on one counter are added up.
--
-- KEYS[1]   cart       hash    the owner's active cart
-- KEYS[2]   carts      hash    cart id -> cart key
-- KEYS[3]   seq        string  the last cart id given; missing: the bucket is not warm
-- KEYS[4]   stock      hash    counter -> units free
-- KEYS[5]   dirty      zset    cart key -> oldest unflushed change, ms
-- KEYS[6]   prices     stream  price changes of cart lines
-- KEYS[7+]  product    hash    the catalogue record, per line
-- ARGV[1]   now        ms
-- ARGV[2]   max_lines  distinct lines a cart may hold
-- ARGV[3]   id_step    distance between two cart ids of the bucket
-- ARGV[4+]  product_id, variant_id ('' for none), quantity, per line
-- Returns   {'OK', the cart's fields and values}
--         | {'NOT_WARM'}
--         | {'UNKNOWN_PRODUCT', product_id}
--         | {'UNKNOWN_VARIANT', product_id, variant_id}
--         | {'INACTIVE_PRODUCT', product_id}
--         | {'NO_COUNTER', counter}
--         | {'OUT_OF_STOCK', sku, free, in_cart}
--         | {'CART_FULL', max_lines}

local cart, carts, seq, stock = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local dirty, prices = KEYS[5], KEYS[6]
local now, max_lines, id_step = ARGV[1], tonumber(ARGV[2]), ARGV[3]

-- Units of the cart that already draw on a counter which several SKUs of the product share.
local function drawn(product, product_id, counter)
  local units = 0
  local fields = redis.call('HGETALL', cart)
  for i = 1, #fields, 2 do
    local owner, variant = string.match(fields[i], '^q:([^/]*)(.*)$')
    if owner == product_id then
      local field = variant == '' and 'stock' or 'stock:' .. string.sub(variant, 2)
      -- A variant that left the catalogue counts as drawing on the product's counter.
      if (redis.call('HGET', product, field) or product_id) == counter then
        units = units + tonumber(fields[i + 1])
      end
    end
  end
  return units
end

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end

local facts = redis.call('HMGET', cart, 'id', 'version', 'lines', 'last_line')
local cart_id = facts[1]
local version = tonumber(facts[2] or 0) + 1
local lines = tonumber(facts[3] or 0)
local last_line = tonumber(facts[4] or 0)
local lines_before = lines

local changes = {} -- per SKU, in the order of the request
local change_of = {} -- SKU -> its change
local wanted = {} -- counter -> units the cart would draw on it

for i = 1, #KEYS - 6 do
  local product = KEYS[6 + i]
  local product_id, variant_id, quantity = ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]
  if not string.match(quantity, '^[1-9]%d*$') or #quantity > 9 then
    return redis.error_reply('ERR a quantity is a whole number from 1 to 999999999')
  end

  local sku, suffix = product_id, ''
  if variant_id ~= '' then
    sku, suffix = product_id .. '/' .. variant_id, ':' .. variant_id
  end
  local record = redis.call('HMGET', product, 'active', 'shared',
    'price' .. suffix, 'line' .. suffix, 'stock' .. suffix)
  local active, shared, price, line, counter = unpack(record)
  if not active then
    return { 'UNKNOWN_PRODUCT', product_id }
  elseif active ~= '1' then
    return { 'INACTIVE_PRODUCT', product_id }
  elseif not price then
    return { 'UNKNOWN_VARIANT', product_id, variant_id }
  end

  local free = redis.call('HGET', stock, counter)
  if not free then
    return { 'NO_COUNTER', counter }
  end
  local held = redis.call('HMGET', cart, 'q:' .. sku, 'l:' .. sku)
  local in_cart = tonumber(held[1] or 0)
  if shared == '1' and counter == product_id then
    in_cart = drawn(product, product_id, counter)
  end
  wanted[counter] = (wanted[counter] or in_cart) + tonumber(quantity)
  if wanted[counter] > tonumber(free) then
    return { 'OUT_OF_STOCK', sku, tonumber(free), in_cart }
  end

  local change = change_of[sku]
  if change then
    change.quantity = change.quantity + tonumber(quantity)
  else
    change = { sku = sku, quantity = tonumber(quantity), price = price, line = line }
    if held[2] then
      change.number, change.old_price, change.rest =
        string.match(held[2], '^{"line":(%d+),"price":(%d+)(,.*)$')
      if not change.number then
        return redis.error_reply('ERR line ' .. sku .. ' of ' .. cart .. ' is not readable')
      end
    else
      lines = lines + 1
    end
    change_of[sku] = change
    changes[#changes + 1] = change
  end
end

if lines > lines_before and lines > max_lines then
  return { 'CART_FULL', max_lines }
end

-- Nothing below may fail: Redis does not undo writes.

if not cart_id then
  cart_id = redis.call('INCRBY', seq, id_step)
  redis.call('HSET', cart, 'id', cart_id, 'status', 'ACTIVE', 'created', now)
  redis.call('HSET', carts, cart_id, cart)
end

for _, change in ipairs(changes) do
  redis.call('HINCRBY', cart, 'q:' .. change.sku, change.quantity)
  if not change.number then
    last_line = last_line + 1
    redis.call('HSET', cart, 'l:' .. change.sku, '{"line":' .. last_line
      .. ',"price":' .. change.price .. ',"added":' .. now .. ',' .. change.line .. '}')
  elseif change.old_price ~= change.price then
    redis.call('HSET', cart, 'l:' .. change.sku, '{"line":' .. change.number
      .. ',"price":' .. change.price .. change.rest)
    redis.call('XADD', prices, '*', 'cart', cart_id, 'line', change.number,
      'version', version, 'sku', change.sku, 'old', change.old_price, 'new', change.price,
      'at', now)
  end
end

redis.call('HSET', cart, 'version', version, 'updated', now, 'lines', lines, 'last_line', last_line)
redis.call('ZADD', dirty, 'NX', now, cart)
return { 'OK', redis.call('HGETALL', cart) }
