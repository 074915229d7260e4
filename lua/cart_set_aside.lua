#!lua
-- cart_set_aside: clear the dirty mark of carts that are still as they were when PostgreSQL refused
-- them. One that has changed since stays dirty, as of the time it was read. None leaves Redis, not
-- even a closed one: of that, PostgreSQL may have a row that says it is active.
--
-- KEYS[1]   dirty    zset  cart key -> oldest unflushed change, ms
-- KEYS[2+]  cart     hash  the carts that were refused
-- ARGV[1]   read_at  ms    when the carts were read
-- ARGV[2+]  cart id, version, as refused, per cart
-- Returns   {'OK', cleared}

local dirty = KEYS[1]
local read_at = ARGV[1]

local cleared = 0
for i = 2, #KEYS do
  local cart = KEYS[i]
  local cart_id, version = ARGV[2 * i - 2], ARGV[2 * i - 1]
  local facts = redis.call('HMGET', cart, 'id', 'version')
  if facts[1] == cart_id and facts[2] == version then
    cleared = cleared + redis.call('ZREM', dirty, cart)
  else
    redis.call('ZADD', dirty, 'XX', read_at, cart)
  end
end
return { 'OK', cleared }
