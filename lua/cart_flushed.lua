#!lua
-- cart_flushed: clear the dirty mark of carts whose written version is still the current one.
-- A cart that has changed since stays dirty, as of the time it was read.
--
-- KEYS[1]   dirty     zset  cart key -> oldest unflushed change, ms
-- KEYS[2+]  cart      hash  the carts that were written
-- ARGV[1]   read_at   ms    when the carts were read
-- ARGV[2+]  version   the version that was written, per cart; '' for a cart that was not there
-- Returns   {'OK', cleared}

local dirty = KEYS[1]
local read_at = ARGV[1]

local cleared = 0
for i = 2, #KEYS do
  local cart = KEYS[i]
  local version = ARGV[i]
  if (redis.call('HGET', cart, 'version') or '') == version then
    cleared = cleared + redis.call('ZREM', dirty, cart)
  else
    redis.call('ZADD', dirty, 'XX', read_at, cart)
  end
end
return { 'OK', cleared }
