#!lua
-- cart_read: the owner's cart, and what there is to tell about it.
--
-- KEYS[1]  cart  hash    the owner's active cart
-- KEYS[2]  seq   string  the last cart id given; missing: the bucket is not warm
-- KEYS[3]  cold  hash    owner -> id of the active cart that only PostgreSQL has
-- ARGV[1]  now   ms
-- ARGV[2]  owner as `cold` names it
-- Returns  {'OK', the cart's fields and values}
--        | {'NOT_WARM'}
--        | {'NO_CART'}
--        | {'COLD', cart key, cart_id}
--        | {'HOLDS_DUE', cart key, counter = ''}

local cart, seq, cold = KEYS[1], KEYS[2], KEYS[3]
local now, owner = ARGV[1], ARGV[2]

local facts = redis.call('HMGET', cart, 'id', 'due', 'notices')
local id, due, notices = facts[1], facts[2], facts[3]
if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
elseif not id then
  local marker = redis.call('HGET', cold, owner)
  return marker and { 'COLD', cart, string.match(marker, '^%d+') } or { 'NO_CART' }
elseif due and tonumber(due) <= tonumber(now) then
  return { 'HOLDS_DUE', cart, '' }
end

-- Nothing below may fail: Redis does not undo writes.

local fields = redis.call('HGETALL', cart)
if notices then
  redis.call('HDEL', cart, 'notices')
end
return { 'OK', fields }
