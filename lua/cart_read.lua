#!lua
-- cart_read: the owner's cart, and what there is to tell about it.
--
-- KEYS[1]  cart  hash    the owner's active cart
-- KEYS[2]  seq   string  the last cart id given; missing: the bucket is not warm
-- ARGV[1]  now   ms
-- Returns  {'OK', the cart's fields and values}
--        | {'NOT_WARM'}
--        | {'NO_CART'}
--        | {'HOLDS_DUE', cart key, counter = ''}

local cart, seq = KEYS[1], KEYS[2]
local now = ARGV[1]

local facts = redis.call('HMGET', cart, 'id', 'due', 'notices')
local id, due, notices = facts[1], facts[2], facts[3]
if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
elseif not id then
  return { 'NO_CART' }
elseif due and tonumber(due) <= tonumber(now) then
  return { 'HOLDS_DUE', cart, '' }
end

-- Nothing below may fail: Redis does not undo writes.

local fields = redis.call('HGETALL', cart)
if notices then
  redis.call('HDEL', cart, 'notices')
end
return { 'OK', fields }
