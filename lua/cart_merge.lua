#!lua
-- cart_merge: move a guest's cart into the owner's: each line as far as stock, limits and caps
-- allow. Holds move with their deadlines, or join the one of the owner's line.
--
-- uses bucket, once, cart, line, catalogue, terms
-- KEYS[15]   cart    hash    the owner's active cart
-- KEYS[16]   guest   hash    the guest's active cart; once merged it is not there any more
-- KEYS[17]   closed  hash    where the guest's cart goes
-- KEYS[18+]  once    string  outcome and count, of a request with an idempotency key
-- ARGV[5]    once    '' or what lib/once says of the request
-- Returns    {'OK', the cart's fields and values, report}; the report has sku, units asked, units
--            moved and the reason, per line that did not fit
--          | {'NO_CART'}

local cart, guest = open_cart(KEYS[15]), open_cart(KEYS[16])
local closed = KEYS[17]
local once = open_once(ARGV[5])
local lines, report, new_lines = {}, {}, 0

-- Why none of the guest's line can move, or nil.
local function blocked(line, theirs)
  local is_free_to_move = theirs.counter and theirs.number and not line.facts
  local reply = not (line.record or is_free_to_move) and unknown(line.sku)
    or not line.facts and no_place(cart, new_lines + 1)
    or not (theirs.saved > 0 or theirs.counter) and not_sold(line.record)
  if reply then
    return reply[1]
  end
  -- Set aside by the guest, wanted by the owner: the owner's word counts.
  return theirs.saved > 0 and line.units > 0 and 'ALREADY_IN_CART' or nil
end

-- Plan what the owner's line will be: units that move, the reason why not all, or nil and a reply.
local function plan_units(line, theirs)
  local record = line.record
  if theirs.counter and not line.facts then
    -- Held and new to the owner: it moves as it is, whatever stock and policy are today.
    local most, limit = theirs.units, nil
    if record then
      most, limit = tighter(cart, line, most)
    end
    local moved = math.max(0, most)
    if record and record.limited then
      units_of[record.product_id] = in_cart(cart, line) + moved
    end
    free_of[theirs.counter] = free(theirs.counter) - moved
    line.next_units, line.next_counter, line.next_deadline = moved, theirs.counter, theirs.deadline
    return moved, limit and limit[1]
  end
  local most, limit = room(cart, line)
  most = most - line.saved
  local reply = limit[1] == 'NO_COUNTER' and limit
    or limit[1] == 'OUT_OF_STOCK' and theirs.units > most and holds_due(record.counter)
  if reply then
    return nil, reply
  end
  local moved = math.max(0, math.min(theirs.units, most))
  if moved > 0 then
    plan(cart, line, line.units + line.saved + moved)
    if line.next_counter and theirs.counter and not line.counter then
      line.next_deadline = theirs.deadline
    end
  end
  return moved, limit[1]
end

local function plan_line(theirs)
  local line = open_line(cart, theirs.sku)
  line.record = record_of(theirs.sku)
  if theirs.counter then
    free_of[theirs.counter] = (free(theirs.counter) or 0) + theirs.units
  end
  local asked = theirs.units + theirs.saved
  local moved, reason = 0, blocked(line, theirs)
  if not reason and theirs.saved > 0 then
    moved, reason = math.min(asked, MAX_UNITS - line.saved), 'OUT_OF_STOCK'
  elseif not reason then
    moved, reason = plan_units(line, theirs)
  end
  if not moved then
    return reason
  elseif moved < asked then
    report[#report + 1] = { line.sku, asked, moved, reason }
  end
  if moved > 0 then
    line.moved = moved
    lines[#lines + 1] = line
    if not line.facts then
      -- A price that is on its way to the guest's line reaches it here, as a change.
      line.price, line.about = theirs.price, about_of(theirs)
      new_lines = new_lines + 1
    end
  end
end

local seen = answered(once)
if seen then
  return seen
end
local reply = not_now(cart) or not_now(guest)
if not (reply or guest.id) then
  reply = { 'NO_CART' }
end
local guest_lines = reply and {} or all_lines(guest)
for _, theirs in ipairs(guest_lines) do
  reply = reply or plan_line(theirs)
end
if reply then
  return conclude(once, refuse(cart, reply))
end

-- Nothing below may fail: Redis does not undo writes.

if not cart.id then
  make_cart(cart)
end
for _, theirs in ipairs(guest_lines) do
  hold(guest, theirs, 0)
end
for _, line in ipairs(lines) do
  if line.next_units then
    carry_out(cart, line)
  else
    if line.facts then
      touch(cart, line)
    else
      make_line(cart, line, line.price or line.record.price, line.about or line.record.about)
      take_price(cart, line, line.record.price)
    end
    redis.call('HINCRBY', cart.key, 's:' .. line.sku, line.moved)
  end
end
add_news(cart, guest.notices)
close_as('REMOVED', guest, guest_lines, closed)
keep(cart)
reply = tell(cart)
reply[3] = report
return conclude(once, reply)
