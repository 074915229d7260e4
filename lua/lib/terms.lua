-- terms: whether a cart may have units of a SKU, by the catalogue's rules and the stock; and the
-- plan of what the script is going to write, on which the next line of the request is decided.
--
-- Refuses  {'OUT_OF_STOCK', sku, free, in_cart}
--        | {'SOLD_OUT', sku, until}
--        | {'NO_COUNTER', counter}
--        | {'INACTIVE_PRODUCT', product_id}
--        | {'SALE_NOT_STARTED', product_id, starts, wait}
--        | {'SALE_ENDED', product_id, ends}
--        | {'ORDER_LIMIT', product_id, max_units, in_cart}
--        | {'BUYER_LIMIT', product_id, max_units, has}
--        | {'BELOW_MINIMUM', product_id, min_units}
--        | {'HOLDS_DUE', cart key, counter}
--        | {'SALE_PAUSED', pause}; as `paused` has it

local free_of = {} -- counter -> units that are free by the plan
local drawn_of = {} -- counter -> units of the cart, not held, that count on it by the plan
local units_of = {} -- product -> units in the cart by the plan
local pause -- what `paused` has, or false; nil until this run has looked

-- Nothing is planned any more: what was, is written or refused.
local function forget_plans()
  free_of, drawn_of, units_of = {}, {}, {}
end

-- nil where the counter is missing: stock is never guessed.
local function free(counter)
  if not free_of[counter] then
    free_of[counter] = tonumber(redis.call('HGET', stock, counter))
  end
  return free_of[counter]
end

-- Units of the product in the cart, those that are not held apart: as (all, not held on `counter`).
local function units_of_product(cart, product_id, counter)
  local all, drawn = 0, 0
  -- Nothing is written before everything is decided, so once is enough.
  cart.fields = cart.fields or redis.call('HGETALL', cart.key)
  local fields, is_held = cart.fields, {}
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'h:' then
      is_held[string.sub(fields[i], 3)] = true
    end
  end
  for i = 1, #fields, 2 do
    local sku = string.match(fields[i], '^q:(.*)$')
    if sku and string.match(sku, '^[^/]+') == product_id then
      local units = tonumber(fields[i + 1])
      local record = record_of(sku)
      all = all + units
      -- A variant that left the catalogue draws on its own counter, if it had one, or the product's.
      local drawn_on = record and record.counter or free(sku) and sku or product_id
      if not is_held[sku] and drawn_on == counter then
        drawn = drawn + units
      end
    end
  end
  return all, drawn
end

local function not_held(line)
  return line.counter and 0 or line.units
end

local function in_cart(cart, line)
  local record, product_id = line.record, line.record.product_id
  if not units_of[product_id] then
    units_of[product_id] = record.several and units_of_product(cart, product_id) or line.units
  end
  return units_of[product_id]
end

local function drawn(cart, line)
  local record, counter = line.record, line.record.counter
  if not drawn_of[counter] then
    if record.several and counter == record.product_id then
      local _, units = units_of_product(cart, record.product_id, counter)
      drawn_of[counter] = units
    else
      drawn_of[counter] = not_held(line)
    end
  end
  return drawn_of[counter]
end

-- Where `buyers` counts what the cart's owner ordered: a sale that starts anew counts anew.
local function ordered_field(cart, record)
  return record.product_id .. ' ' .. (record.starts or 0) .. ' ' .. owner_of(cart)
end

-- How many more units of the line the stock allows, and the reply to whom that is too few.
local function stock_room(cart, line)
  local record = line.record
  if record.policy == 'untracked' then
    return MAX_UNITS - line.units, { 'OUT_OF_STOCK', line.sku, MAX_UNITS, line.units }
  end
  local units_free = free(record.counter)
  if not units_free then
    return -math.huge, { 'NO_COUNTER', record.counter }
  end
  if line.counter == record.counter then
    units_free = units_free + line.units
  end
  local counted = record.policy == 'hold' and line.units or drawn(cart, line)
  if line.counter and record.policy == 'check' then
    counted = counted + line.units
  end
  return units_free - counted, { 'OUT_OF_STOCK', line.sku, units_free, counted }
end

-- When the first hold on the counter runs out, 0 if there is none.
local function first_deadline(counter)
  local name = redis.call('ZRANGEBYLEX', holds_by_sku,
    '[' .. counter .. ' ', '(' .. counter .. '!', 'LIMIT', 0, 1)[1]
  return name and string.match(name, '^[^ ]+ (%d+)') or 0
end

-- What there is too little of: as it is, not as earlier lines of the request would have made it.
local function out_of_stock(cart, line)
  free_of, drawn_of = {}, {}
  local _, reply = stock_room(cart, line)
  if line.record.policy == 'hold' and reply[3] == 0 and reply[4] == 0 then
    return { 'SOLD_OUT', line.sku, first_deadline(line.record.counter) }
  end
  return reply
end

-- The tighter of that and of what an order and a buyer may have: as (units, reply).
local function tighter(cart, line, most, reply)
  local record = line.record
  if record.max_per_order then
    local units = in_cart(cart, line)
    if record.max_per_order - units < most then
      most = record.max_per_order - units
      reply = { 'ORDER_LIMIT', record.product_id, record.max_per_order, units }
    end
  end
  if record.max_per_buyer then
    local ordered = redis.call('HGET', buyers, ordered_field(cart, record))
    local units = in_cart(cart, line) + tonumber(ordered or 0)
    if record.max_per_buyer - units < most then
      most = record.max_per_buyer - units
      reply = { 'BUYER_LIMIT', record.product_id, record.max_per_buyer, units }
    end
  end
  return most, reply
end

local function room(cart, line)
  return tighter(cart, line, stock_room(cart, line))
end

-- Why nobody may have the product now, or nil.
local function not_sold(record)
  if not record.active then
    return { 'INACTIVE_PRODUCT', record.product_id }
  elseif record.starts and now < record.starts then
    return { 'SALE_NOT_STARTED', record.product_id, record.starts, record.starts - now }
  elseif record.ends and now >= record.ends then
    return { 'SALE_ENDED', record.product_id, record.ends }
  end
end

-- Lines whose hold on the counter has run out, as `holds_by_sku` names them, the oldest first.
local function names_due(counter, limit)
  return redis.call('ZRANGEBYLEX', holds_by_sku,
    '[' .. counter .. ' ', '(' .. counter .. ' ' .. now + 1, 'LIMIT', 0, limit)
end

-- The reply if there are such, or nil: there are units free in truth.
local function holds_due(counter)
  return names_due(counter, 1)[1] and { 'HOLDS_DUE', '', counter }
end

-- Why the line can't have `units`, or nil.
local function refusal(cart, line, units)
  local reply = not_sold(line.record)
  if reply then
    return reply
  end
  local most, limit = room(cart, line)
  if units - line.units > most then
    return limit[1] == 'OUT_OF_STOCK' and holds_due(line.record.counter) or limit
  end
end

-- Plan that the line will have `units`, under the product's policy of today.
local function plan(cart, line, units)
  local record = line.record
  if record.limited then
    units_of[record.product_id] = in_cart(cart, line) + units - line.units
  end
  if line.counter then
    free_of[line.counter] = (free(line.counter) or 0) + line.units
  end
  if record.policy == 'hold' then
    free_of[record.counter] = free(record.counter) - units
    line.next_counter = record.counter
    line.next_deadline = line.deadline or now + record.hold_ms
  elseif record.policy == 'check' then
    drawn_of[record.counter] = drawn(cart, line) + units - not_held(line)
  end
  line.next_units = units
end

-- Plan that the line will have `units`, or the reply why it can't.
local function decide(cart, line, units)
  if line.facts and not line.number then
    error('line ' .. line.sku .. ' of cart ' .. tostring(cart.id) .. ' is not readable')
  end
  line.record = record_of(line.sku)
  if not line.record then
    return unknown(line.sku)
  end
  local reply = refusal(cart, line, units)
  if not reply then
    plan(cart, line, units)
  end
  return reply
end

-- The reply while the sale is paused, or nil.
local function sale_paused()
  if pause == nil then
    pause = redis.call('GET', paused)
  end
  return pause and { 'SALE_PAUSED', pause } or nil
end

-- As `decide`, of more units than the cart has: none come in while the sale is paused.
local function decide_more(cart, line, units)
  return sale_paused() or decide(cart, line, units)
end

-- Why a cart can't be left with as few of the product as are planned, or nil.
local function too_few(cart, line)
  local least = line.record.min_per_order
  if least and in_cart(cart, line) < least then
    return { 'BELOW_MINIMUM', line.record.product_id, least }
  end
end

-- Plan fewer units. Neither stock nor what the catalogue says today keeps anybody from that.
local function decide_fewer(cart, line, units)
  line.next_units, line.next_counter, line.next_deadline = units, line.counter, line.deadline
  line.record = record_of(line.sku)
  if line.record and line.record.min_per_order then
    units_of[line.record.product_id] = in_cart(cart, line) + units - line.units
    return too_few(cart, line)
  end
end

-- Write a line as planned, at the catalogue's price of today.
local function carry_out(cart, line)
  local record = line.record
  if line.facts then
    touch(cart, line)
  else
    make_line(cart, line, line.price or record.price, line.about or record.about)
  end
  if record and line.number then
    take_price(cart, line, record.price)
  end
  if line.saved > 0 then
    redis.call('HDEL', cart.key, 's:' .. line.sku)
  end
  redis.call('HINCRBY', cart.key, 'q:' .. line.sku, line.next_units - line.units)
  hold(cart, line, line.next_units, line.next_counter, line.next_deadline)
end
