#!lua
-- hold_release: take lines whose hold has run out from some carts. Their units are free again, and
-- the owners will be told.
--
-- uses bucket, cart, line
-- KEYS[15+]  cart    hash  carts that may have such lines
-- ARGV[5]    limit   lines that are taken
-- ARGV[6]    budget  fields that are looked at, with what the last cart has above it; these two
--                    bound the time. What is beyond them stays for the next call
-- Returns    {'OK', how many lines were taken}
--          | {'NOT_WARM'}

local limit, budget = tonumber(ARGV[5]), tonumber(ARGV[6])

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end

-- Nothing below may fail: Redis does not undo writes.

local released = 0

local function release(cart)
  local fields = redis.call('HGETALL', cart.key)
  budget = budget - #fields
  -- Looked at again: a hold may have ended or moved since somebody found it due.
  local lines = held_lines(cart, fields, now, limit - released)
  take_away(cart, lines, 'hold_expired')
  released = released + #lines
end

for i = 15, #KEYS do
  local cart = open_cart(KEYS[i])
  if cart.due <= now and released < limit and budget > 0 then
    release(cart)
  end
  if cart.has_news then
    keep(cart)
  elseif cart.lost_hold or cart.due == math.huge then
    keep_deadline(cart)
  end
end
return { 'OK', released }
