#!lua
-- guest_begin: note that a guest is about to begin a cart, unless as many have from that address.
--
-- KEYS[1]   cold   hash  owner -> id of the active cart that only PostgreSQL has
-- KEYS[2]   begun  set   guests who began a cart from the address in this second
-- KEYS[3+]  known  hash  the guest's active cart; behind it, if the request has an idempotency key,
--           its outcome: with any of these, nothing begins
-- ARGV[1]   guest  as `cold` names an owner
-- ARGV[2]   most   guests who may begin a cart in a second
-- Returns   {'OK', ''}
--         | {'TOO_MANY_GUESTS', most}

local cold, begun = KEYS[1], KEYS[2]
local guest, most = ARGV[1], tonumber(ARGV[2])
local SECOND_MS = 1000

local function is_known()
  for i = 3, #KEYS do
    local key = KEYS[i]
    if redis.call('EXISTS', key) == 1 then
      return true
    end
  end
  return redis.call('HEXISTS', cold, guest) == 1 or redis.call('SISMEMBER', begun, guest) == 1
end

if is_known() then
  return { 'OK', '' }
end

local count = redis.call('SCARD', begun)
if count >= most then
  return { 'TOO_MANY_GUESTS', most }
end

-- Nothing below may fail: Redis does not undo writes.

redis.call('SADD', begun, guest)
if count == 0 then
  redis.call('PEXPIRE', begun, SECOND_MS)
end
return { 'OK', '' }
