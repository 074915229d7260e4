#!lua
-- cart_unmark: forget that an owner's cart is cold, if it still is the one that was meant.
--
-- KEYS[1]  cold     hash  owner -> id of the active cart that only PostgreSQL has
-- ARGV[1]  owner    as `cold` names it
-- ARGV[2]  cart_id
-- Returns  {'OK', whether it was: 1 or 0}

local cold = KEYS[1]
local owner, cart_id = ARGV[1], ARGV[2]

if string.match(redis.call('HGET', cold, owner) or '', '^%d+') ~= cart_id then
  return { 'OK', 0 }
end

-- Nothing below may fail: Redis does not undo writes.

return { 'OK', redis.call('HDEL', cold, owner) }
