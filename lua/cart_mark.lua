#!lua
-- cart_mark: note that an owner's cart is cold, if Redis has neither that cart, nor another one or a
-- marker of its owner.
--
-- KEYS[1]  seq    string  the last cart id given; missing: the bucket is not warm
-- KEYS[2]  carts  hash    cart id -> cart key
-- KEYS[3]  cold   hash    owner -> id of the active cart that only PostgreSQL has
-- KEYS[4]  cart   hash    the owner's active cart
-- ARGV[1]  owner    as `cold` names it
-- ARGV[2]  cart_id
-- Returns  {'OK', whether it was done: 1 or 0}
--        | {'NOT_WARM'}

local seq, carts, cold, cart = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local owner, cart_id = ARGV[1], ARGV[2]

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
elseif redis.call('HEXISTS', carts, cart_id) == 1 or redis.call('HEXISTS', cold, owner) == 1
  or redis.call('EXISTS', cart) == 1 then
  return { 'OK', 0 }
end

-- Nothing below may fail: Redis does not undo writes.

redis.call('HSET', cold, owner, cart_id)
return { 'OK', 1 }
