#!lua
-- cart_restore: put a cart back as it was flushed, unless its owner has one. Its holds are taken
-- again, until their old deadlines; a line whose units have gone meanwhile is left out.
--
-- uses bucket, cart, line, catalogue, terms
-- KEYS[13]   cart       hash  the owner's active cart
-- ARGV[5]    cart_id
-- ARGV[6]    version
-- ARGV[7]    created    ms
-- ARGV[8]    updated    ms
-- ARGV[9]    last_line  the highest line number that was given
-- ARGV[10+]  sku, units, 'q' in the cart or 's' saved for later, deadline ms or '' if not held,
--            facts as in l:<sku>, per line
-- Returns    {'OK', the cart's fields and values}
--          | {'NOT_WARM'}
--          | {'NO_CART'}; it was closed

local cart = open_cart(KEYS[13])
local cart_id, version, created = ARGV[5], ARGV[6], ARGV[7]
local updated, last_line = ARGV[8], ARGV[9]
local lines = {}

-- Plan to hold a line's units again, or that it is left out; or the reply why neither is known.
local function plan_hold(line, units, deadline)
  local record = record_of(line.sku)
  local units_free = record and free(record.counter) or 0
  if deadline <= now then
    line.is_gone = true
  elseif units_free >= units then
    free_of[record.counter] = units_free - units
    line.next_counter, line.next_deadline = record.counter, deadline
  else
    line.is_gone = true
    return record and holds_due(record.counter)
  end
end

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
elseif not cart.id and redis.call('HGET', carts, cart_id) then
  return { 'NO_CART' }
end
for i = 10, cart.id and 0 or #ARGV, 5 do
  local line = { sku = ARGV[i], units = 0, kind = ARGV[i + 2], facts = ARGV[i + 4] }
  line.next_units = tonumber(ARGV[i + 1])
  local deadline = tonumber(ARGV[i + 3])
  local reply = deadline and plan_hold(line, line.next_units, deadline)
  if reply then
    return reply
  end
  lines[#lines + 1] = line
end

-- Nothing below may fail: Redis does not undo writes.

if cart.id then
  return { 'OK', redis.call('HGETALL', cart.key) }
end
redis.call('HSET', carts, cart_id, cart.key)
redis.call('HSET', cart.key, 'id', cart_id, 'status', 'ACTIVE', 'created', created)
cart.id, cart.version, cart.last_line = cart_id, tonumber(version), last_line
for _, line in ipairs(lines) do
  if line.is_gone then
    cart.version = tonumber(version) + 1
    add_notice(cart, line.sku, line.next_units, 'hold_expired')
  else
    cart.lines = cart.lines + 1
    redis.call('HSET', cart.key, 'l:' .. line.sku, line.facts,
      line.kind .. ':' .. line.sku, line.next_units)
    redis.call('ZADD', holders, 0, line.sku .. ' ' .. cart.key)
    hold(cart, line, line.next_units, line.next_counter, line.next_deadline)
  end
end
keep(cart)
if not cart.has_news then
  -- As it was flushed: there is nothing to flush.
  redis.call('HSET', cart.key, 'updated', updated)
  redis.call('ZREM', dirty, cart.key)
end
return { 'OK', redis.call('HGETALL', cart.key) }
