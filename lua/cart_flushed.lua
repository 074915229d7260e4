#!lua
-- cart_flushed: clear the dirty mark of carts that are still as they were written. One that has
-- changed since stays dirty, as of the time it was read; one that is closed goes.
--
-- KEYS[1]   dirty    zset  cart key -> oldest unflushed change, ms
-- KEYS[2]   carts    hash  cart id -> cart key
-- KEYS[3+]  cart     hash  the carts that were written
-- ARGV[1]   read_at  ms    when the carts were read
-- ARGV[2+]  cart id, version, as written, per cart; '' and '' for a cart that was not there
-- Returns   {'OK', cleared}

local dirty, carts = KEYS[1], KEYS[2]
local read_at = ARGV[1]

local cleared = 0
for i = 3, #KEYS do
  local cart = KEYS[i]
  local cart_id, version = ARGV[2 * i - 4], ARGV[2 * i - 3]
  local facts = redis.call('HMGET', cart, 'id', 'version', 'status')
  -- By id too: another cart of the owner may be at this version by now.
  if (facts[1] or '') == cart_id and (facts[2] or '') == version then
    cleared = cleared + redis.call('ZREM', dirty, cart)
    if facts[3] and facts[3] ~= 'ACTIVE' then
      redis.call('DEL', cart)
      redis.call('HDEL', carts, cart_id)
    end
  else
    redis.call('ZADD', dirty, 'XX', read_at, cart)
  end
end
return { 'OK', cleared }
