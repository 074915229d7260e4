#!lua
-- cart_close: take the cart from its owner. Converted, all its units are sold or none: held ones
-- without a further question, the others decided as an add is. Abandoned or removed, what it held
-- is free again. A cart that changed without its owner knowing is told, not converted. Lines saved
-- for later stay with the owner of a converted cart, in the next one.
--
-- uses bucket, once, cart, line, catalogue, terms
-- KEYS[15]   cart     hash    the owner's active cart
-- KEYS[16]   closed   hash    where it goes
-- KEYS[17+]  once     string  outcome and count, of a request with an idempotency key
-- ARGV[5]    once     '' or what lib/once says of the request
-- ARGV[6]    status   CONVERTED, ABANDONED, REMOVED or DELETED
-- ARGV[7]    cart_id  only if it is this cart; '' for whichever it is
-- ARGV[8]    version  only if it is still at this one; '' for whichever it is at
-- Returns    {'OK', the cart's fields and values; status ACTIVE: it was told, not converted}
--          | {'NO_CART'}
--          | {'SHORT', shortages}; of each line: sku, units free, units that
--            the cart wants of its counter

local cart = open_cart(KEYS[15])
local closed = KEYS[16]
local once = open_once(ARGV[5])
local status, cart_id, version = ARGV[6], ARGV[7], ARGV[8]
local lines

local function decide_sale()
  local short = {}
  for _, line in ipairs(lines) do
    line.record = record_of(line.sku)
    -- Its limits are the product's, also when the variant has left.
    line.limits = line.record or record_of(string.match(line.sku, '^[^/]+'))
    if line.units > 0 then
      local reply = line.record and too_few(cart, line)
      if not (reply or line.counter) then
        reply = decide(cart, line, line.units)
      end
      if reply and reply[1] == 'OUT_OF_STOCK' then
        short[#short + 1] = line.sku
        short[#short + 1] = reply[3]
        short[#short + 1] = reply[4]
      elseif reply then
        return reply
      end
    end
  end
  if #short > 0 then
    return { 'SHORT', short }
  end
end

local function sell(line)
  local record = line.record
  local counter = line.counter or record.policy ~= 'untracked' and record.counter
  if counter then
    local taken_from = line.counter and held or stock
    redis.call('HINCRBY', taken_from, counter, -line.units)
    redis.call('HINCRBY', sold, counter, line.units)
    redis.call('HSET', cart.key, 'c:' .. line.sku, counter)
  end
  if line.limits and line.limits.max_per_buyer then
    redis.call('HINCRBY', buyers, ordered_field(cart, line.limits), line.units)
  end
end

-- What was saved for later is no part of the order: it stays with the owner, in a cart of its own.
local function keep_saved(saved)
  local rest = open_cart(KEYS[15])
  make_cart(rest)
  for _, line in ipairs(saved) do
    local kept = { sku = line.sku }
    make_line(rest, kept, line.price, about_of(line))
    redis.call('HSET', rest.key, 's:' .. line.sku, line.saved)
    if line.record then
      take_price(rest, kept, line.record.price)
    end
  end
  keep(rest)
end

local seen = answered(once)
if seen then
  return seen
end
local function is_meant()
  return cart.id and (cart_id == '' or cart_id == cart.id)
    and (version == '' or tonumber(version) == cart.version - 1)
end

local reply = not_now(cart)
if not (reply or is_meant()) then
  reply = { 'NO_CART' }
end
if not reply then
  lines = all_lines(cart)
  if status == 'CONVERTED' and not cart.notices then
    reply = decide_sale()
  end
end
if reply then
  return conclude(once, refuse(cart, reply))
end

-- Nothing below may fail: Redis does not undo writes.

if status == 'CONVERTED' and cart.notices then
  return conclude(once, tell(cart))
end
local saved = {}
for _, line in ipairs(lines) do
  if status == 'CONVERTED' and line.saved > 0 and line.number then
    saved[#saved + 1] = line
    remove_line(cart, line)
  elseif status == 'CONVERTED' and line.units > 0 then
    sell(line)
    line.units = 0 -- none left for its hold to give back
  end
  hold(cart, line, 0)
end
reply = close_as(status, cart, lines, closed)
if #saved > 0 then
  keep_saved(saved)
end
return conclude(once, reply)
