#!lua
-- cart_flushed: clear the dirty mark of carts that are still as they were written. One that has
-- changed since stays dirty, as of the time it was read; one that is closed goes. One of which
-- PostgreSQL has a later version than Redis came back older: it takes a version behind that one, so
-- that the next flush writes it.
--
-- KEYS[1]   dirty    zset  cart key -> oldest unflushed change, ms
-- KEYS[2]   carts    hash  cart id -> cart key
-- KEYS[3+]  cart     hash  the carts that were written
-- ARGV[1]   read_at  ms    when the carts were read
-- ARGV[2+]  cart id, version, as written, '' and '' for a cart that was not there; version and time of
--           its last change (ms) of the row that was found instead, '' and '' if it was written; per cart
-- Returns   {'OK', cleared, how many came back older}

local dirty, carts = KEYS[1], KEYS[2]
local read_at = ARGV[1]

-- Whether what PostgreSQL has is not a version that this cart once had, or has.
local function is_older(version, updated, row_version, row_updated)
  if row_version == '' or not version then
    return false
  end
  local ahead = tonumber(row_version) - tonumber(version)
  return ahead > 0 or ahead == 0 and row_updated ~= updated
end

local cleared, older = 0, 0
for i = 3, #KEYS do
  local cart, at = KEYS[i], 4 * i - 10
  local cart_id, version, row_version, row_updated = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local facts = redis.call('HMGET', cart, 'id', 'version', 'status', 'updated')
  local is_same = (facts[1] or '') == cart_id -- The owner may have begun another cart.
  if is_same and is_older(facts[2], facts[4], row_version, row_updated) then
    redis.call('HSET', cart, 'version', row_version + 1)
    redis.call('ZADD', dirty, 'NX', read_at, cart)
    older = older + 1
  elseif is_same and (facts[2] or '') == version then
    cleared = cleared + redis.call('ZREM', dirty, cart)
    if facts[3] and facts[3] ~= 'ACTIVE' then
      redis.call('DEL', cart)
      redis.call('HDEL', carts, cart_id)
    end
  else
    redis.call('ZADD', dirty, 'XX', read_at, cart)
  end
end
return { 'OK', cleared, older }
