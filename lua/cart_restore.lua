#!lua
-- cart_restore: put a cart back as it was flushed, unless its owner has one, or had another one
-- later. Its holds are taken again, until their old deadlines; a line whose units have gone meanwhile is left out, and the others
-- have the price of today.
--
-- uses bucket, cart, line, catalogue, terms
-- KEYS[15]   cart       hash  the owner's active cart
-- ARGV[5]    cart_id
-- ARGV[6]    version
-- ARGV[7]    created    ms
-- ARGV[8]    updated    ms
-- ARGV[9]    last_line  the highest line number that was given
-- ARGV[10]   flushed    1 if the row has this version, 0 if there are price changes behind it
-- ARGV[11]   warming    1 while the bucket is rebuilt, else 0
-- ARGV[12+]  sku, units, 'q' in the cart or 's' saved for later, deadline ms or '' if not held,
--            last change ms or '' if none, facts as in l:<sku>, per line
-- Returns    {'OK', the cart's fields and values}
--          | {'NOT_WARM'}
--          | {'NO_CART'}; it was closed

local cart = open_cart(KEYS[15])
local cart_id, version, created = ARGV[5], ARGV[6], ARGV[7]
local updated, last_line = ARGV[8], ARGV[9]
local flushed, warming = ARGV[10], ARGV[11]
local marker = redis.call('HGET', cold, owner_of(cart))
local lines, is_as_flushed = {}, flushed == '1'

-- Plan to hold a line's units again, or that it is left out; or the reply why neither is known.
local function plan_hold(line, deadline)
  local units_free = line.record and free(line.record.counter) or 0
  if deadline <= now then
    line.is_gone = true
  elseif units_free >= line.next_units then
    free_of[line.record.counter] = units_free - line.next_units
    line.next_counter, line.next_deadline = line.record.counter, deadline
  else
    line.is_gone = true
    return warming == '0' and line.record and holds_due(line.record.counter)
  end
end

local function plan_lines()
  for i = 12, #ARGV, 6 do
    local line = { sku = ARGV[i], units = 0, next_units = tonumber(ARGV[i + 1]) }
    line.kind, line.changed, line.facts = ARGV[i + 2], ARGV[i + 4], ARGV[i + 5]
    read_facts(line)
    line.record = record_of(line.sku)
    local deadline = tonumber(ARGV[i + 3])
    local reply = deadline and plan_hold(line, deadline)
    if reply then
      return reply
    end
    lines[#lines + 1] = line
    if line.is_gone or line.record and line.record.price ~= line.price and not is_fixed(line) then
      is_as_flushed = false
    end
  end
end

local reply
if warming == '0' and redis.call('EXISTS', seq) == 0 then
  reply = { 'NOT_WARM' }
elseif not cart.id and (redis.call('HGET', carts, cart_id)
  or marker and string.match(marker, '^%d+') ~= cart_id) then
  reply = { 'NO_CART' }
elseif not cart.id then
  reply = plan_lines()
end
if reply then
  return reply
end

-- Nothing below may fail: Redis does not undo writes.

if cart.id then
  return { 'OK', redis.call('HGETALL', cart.key) }
end
if warming == '0' and tonumber(redis.call('GET', seq)) < tonumber(cart_id) then
  redis.call('SET', seq, cart_id)
end
redis.call('HDEL', cold, owner_of(cart))
redis.call('HSET', carts, cart_id, cart.key)
redis.call('HSET', cart.key, 'id', cart_id, 'status', 'ACTIVE', 'created', created)
cart.id, cart.last_line = cart_id, last_line
cart.version = tonumber(version) + (is_as_flushed and 0 or 1)
for _, line in ipairs(lines) do
  if line.is_gone then
    add_notice(cart, line.sku, line.next_units, 'hold_expired')
  else
    cart.lines = cart.lines + 1
    redis.call('HSET', cart.key, 'l:' .. line.sku, line.facts,
      line.kind .. ':' .. line.sku, line.next_units)
    if line.changed ~= '' then
      redis.call('HSET', cart.key, 'u:' .. line.sku, line.changed)
    end
    redis.call('ZADD', holders, 0, line.sku .. ' ' .. cart.key)
    if line.record then
      take_price(cart, line, line.record.price)
    end
    hold(cart, line, line.next_units, line.next_counter, line.next_deadline)
  end
end
add_news(cart, marker and string.match(marker, '^%d+ (.*)$'))
keep(cart)
if is_as_flushed then
  redis.call('HSET', cart.key, 'updated', updated)
  redis.call('ZREM', dirty, cart.key)
end
return { 'OK', redis.call('HGETALL', cart.key) }
