#!lua
-- cart_forget: take a cart out of Redis that PostgreSQL has closed. What it held is free again, and
-- what it sold by PostgreSQL's word is sold; nothing is done if too little is free for that, or if
-- anything is not as it was found.
--
-- uses bucket, cart, line
-- KEYS[15]  cart     hash  the owner's active cart
-- ARGV[5]   cart_id
-- ARGV[6]   version
-- ARGV[7+]  counter, units sold as Redis had them, units to count as sold; per counter
-- Returns   {'OK', whether it was done: 1 or 0}
--         | {'NOT_WARM'}

local cart = open_cart(KEYS[15])
local cart_id, version = ARGV[5], ARGV[6]
local freed = {} -- counter -> units that the cart holds

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
elseif cart.id ~= cart_id or cart.version - 1 ~= tonumber(version) then
  return { 'OK', 0 }
end
local lines = all_lines(cart)
for _, line in ipairs(lines) do
  if line.counter then
    freed[line.counter] = (freed[line.counter] or 0) + line.units
  end
end
for i = 7, #ARGV, 3 do
  local counter, units = ARGV[i], tonumber(ARGV[i + 2])
  local units_free = tonumber(redis.call('HGET', stock, counter))
  if not units_free or units_free + (freed[counter] or 0) < units
    or (redis.call('HGET', sold, counter) or '0') ~= ARGV[i + 1] then
    return { 'OK', 0 }
  end
end

-- Nothing below may fail: Redis does not undo writes.

for _, line in ipairs(lines) do
  hold(cart, line, 0)
  redis.call('ZREM', holders, line.sku .. ' ' .. cart.key)
end
for i = 7, #ARGV, 3 do
  redis.call('HINCRBY', stock, ARGV[i], -ARGV[i + 2])
  redis.call('HINCRBY', sold, ARGV[i], ARGV[i + 2])
end
redis.call('DEL', cart.key)
redis.call('HDEL', carts, cart_id)
redis.call('ZREM', dirty, cart.key)
redis.call('ZREM', holds, cart.key)
return { 'OK', 1 }
