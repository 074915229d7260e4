#!lua
-- cart_find: a cart by its id, active or closed and not flushed yet. The first call says where it
-- is, the second one, which is given that key, what is there. Without an id, whichever cart is there
-- is meant. Its owner is told nothing by it.
--
-- KEYS[1]  carts    hash    cart id -> cart key
-- KEYS[2]  seq      string  the last cart id given; missing: the bucket is not warm
-- KEYS[3]  cart     hash    where it was; its own name at first
-- ARGV[1]  cart_id  or '' for whichever it is
-- ARGV[2]  now      ms
-- Returns  {'OK', cart key, the fields and values of the cart, if it still is where it was}
--        | {'NOT_WARM'}
--        | {'NO_CART'}
--        | {'HOLDS_DUE', cart key, counter = ''}

local carts, seq, cart = KEYS[1], KEYS[2], KEYS[3]
local cart_id, now = ARGV[1], ARGV[2]

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
local place = cart_id == '' and redis.call('EXISTS', cart) == 1 and cart
  or redis.call('HGET', carts, cart_id)
if not place then
  return { 'NO_CART' }
elseif place ~= cart then
  return { 'OK', place, {} }
end
local due = redis.call('HGET', cart, 'due')
if due and tonumber(due) <= tonumber(now) then
  return { 'HOLDS_DUE', cart, '' }
end
return { 'OK', place, redis.call('HGETALL', cart) }
