#!lua
-- hold_release: take lines whose hold has run out from some carts. Their units are free again, and
-- the owners will be told.
--
-- uses bucket, cart, line
-- KEYS[13+]  cart   hash  carts that may have such lines
-- ARGV[5]    limit  lines; what is beyond it stays for the next call
-- Returns    {'OK', how many lines were taken}
--          | {'NOT_WARM'}

local limit = tonumber(ARGV[5])

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end

-- Nothing below may fail: Redis does not undo writes.

local released = 0
for i = 13, #KEYS do
  local cart = open_cart(KEYS[i])
  -- Looked at again: a hold may have ended or moved since somebody found it due.
  local is_due = cart.due <= now and released < limit
  for _, line in ipairs(is_due and all_lines(cart) or {}) do
    if line.deadline and line.deadline <= now and released < limit then
      remove_line(cart, line)
      add_notice(cart, line.sku, line.units, 'hold_expired')
      released = released + 1
    end
  end
  if cart.has_news then
    keep(cart)
  elseif is_due or cart.due == math.huge then
    cart.lost_hold = true
    keep_deadline(cart)
  end
end
return { 'OK', released }
