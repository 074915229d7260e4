#!lua
-- cart_cool: let go of carts that PostgreSQL has as they are. Of each, only a marker stays: the id,
-- and what its owner was not told yet. One that has changed since, or holds units, stays.
--
-- uses bucket, cart
-- KEYS[15+]  cart  hash  active carts
-- ARGV[5+]   cart id, version, as PostgreSQL has them, per cart
-- Returns    {'OK', how many were let go}
--          | {'NOT_WARM'}

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end

-- Nothing below may fail: Redis does not undo writes.

local function is_at_rest(cart, version)
  return redis.call('HGET', cart.key, 'version') == version and cart.due == math.huge
    and not redis.call('ZSCORE', dirty, cart.key)
end

local function let_go(cart)
  for _, field in ipairs(redis.call('HKEYS', cart.key)) do
    if string.sub(field, 1, 2) == 'l:' then
      redis.call('ZREM', holders, string.sub(field, 3) .. ' ' .. cart.key)
    end
  end
  redis.call('HSET', cold, owner_of(cart), cart.id .. (cart.notices and ' ' .. cart.notices or ''))
  redis.call('HDEL', carts, cart.id)
  redis.call('DEL', cart.key)
end

local cooled = 0
for i = 15, #KEYS do
  local cart, at = open_cart(KEYS[i]), 5 + 2 * (i - 15)
  if cart.id == ARGV[at] and is_at_rest(cart, ARGV[at + 1]) then
    let_go(cart)
    cooled = cooled + 1
  end
end
return { 'OK', cooled }
