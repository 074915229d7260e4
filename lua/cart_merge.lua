#!lua
-- cart_merge: move a guest's cart into the owner's: each line as far as stock, limits and caps
-- allow. Holds move with their deadlines; of two on one line the earlier counts.
--
-- uses bucket, cart, line, catalogue, terms
-- KEYS[13]  cart    hash  the owner's active cart
-- KEYS[14]  guest   hash  the guest's active cart; once merged it is not there any more
-- KEYS[15]  closed  hash  where the guest's cart goes
-- Returns   {'OK', the cart's fields and values, report}; the report has sku, units asked, units
--           moved and the reason, per line that did not fit
--         | {'NO_CART'}

local cart, guest = open_cart(KEYS[13]), open_cart(KEYS[14])
local closed = KEYS[15]
local lines, report, new_lines = {}, {}, 0

-- Why none of the guest's line can move, or nil.
local function blocked(line, theirs)
  local reply = not line.record and unknown(line.sku)
    or not line.facts and no_place(cart, new_lines + 1)
    or not (theirs.saved > 0 or theirs.counter) and not_sold(line.record)
  if reply then
    return reply[1]
  end
  -- Set aside by the guest, wanted by the owner: the owner's word counts.
  return theirs.saved > 0 and line.units > 0 and 'ALREADY_IN_CART' or nil
end

local function plan_line(theirs)
  local line = open_line(cart, theirs.sku)
  line.record = record_of(theirs.sku)
  if theirs.counter then
    free_of[theirs.counter] = (free(theirs.counter) or 0) + theirs.units
  end
  local asked = theirs.units + theirs.saved
  local reason = blocked(line, theirs)
  local moved = reason and 0 or math.min(asked, MAX_UNITS - line.saved)
  if not reason and theirs.units > 0 then
    local most, limit = room(cart, line)
    local due = limit[1] == 'OUT_OF_STOCK' and moved > most - line.saved
      and holds_due(line.record.counter)
    if due then
      return due
    end
    moved, reason = math.max(0, math.min(asked, most - line.saved)), limit[1]
  end
  if moved < asked then
    report[#report + 1] = { line.sku, asked, moved, reason or 'OUT_OF_STOCK' }
  end
  if moved == 0 then
    return
  end
  new_lines = new_lines + (line.facts and 0 or 1)
  lines[#lines + 1] = line
  line.moved = moved
  if theirs.units > 0 then
    plan(cart, line, line.units + line.saved + moved)
    if line.next_counter and theirs.counter then
      line.next_deadline = math.min(theirs.deadline, line.deadline or theirs.deadline)
    end
  end
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
  return refuse(cart, reply)
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
    if not line.facts then
      make_line(cart, line, line.record.price, line.record.about)
    end
    redis.call('HINCRBY', cart.key, 's:' .. line.sku, line.moved)
  end
end
add_news(cart, guest.notices)
close_as('REMOVED', guest, guest_lines, closed)
keep(cart)
reply = tell(cart)
reply[3] = report
return reply
