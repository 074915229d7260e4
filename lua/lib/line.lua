-- line: a line of a cart: q:<sku> or, saved for later, s:<sku> = quantity, l:<sku> = what was fixed
-- at addition, h:<sku> = '<deadline> <counter>' while its units are held, u:<sku> = its last change
-- after the addition, ms.
--
-- Refuses  {'NO_CART'}
--        | {'NO_LINE', name}

local function read_facts(line)
  line.number, line.price, line.rest =
    string.match(line.facts, '^{"line":(%d+),"price":(%d+)(,.*)$')
end

-- `facts` is false where the cart has no such line, `number` nil where it is not readable.
local function open_line(cart, sku)
  local found = redis.call('HMGET', cart.key, 'q:' .. sku, 'l:' .. sku, 'h:' .. sku, 's:' .. sku)
  local line = {
    sku = sku,
    units = tonumber(found[1] or 0),
    facts = found[2],
    saved = tonumber(found[4] or 0),
  }
  if line.facts then
    read_facts(line)
  end
  if found[3] then
    local deadline, counter = string.match(found[3], '^(%d+) (.+)$')
    line.deadline, line.counter = tonumber(deadline), counter
  end
  return line
end

-- The line that a request means by '<sku>' or '#<cart id>#<line number>', or nil and the reply.
local function find_line(cart, name)
  if not cart.id then
    return nil, { 'NO_CART' }
  end
  local sku = name
  local cart_id, number = string.match(name, '^#(%d+)#(%d+)$')
  if cart_id == cart.id then
    local fields = redis.call('HGETALL', cart.key)
    for i = 1, #fields, 2 do
      if string.match(fields[i + 1], '^{"line":(%d+),') == number then
        sku = string.sub(fields[i], 3)
      end
    end
  end
  local line = open_line(cart, sku)
  if not line.facts then
    return nil, { 'NO_LINE', name }
  end
  return line
end

local function by_number(a, b)
  return tonumber(a.number or 0) < tonumber(b.number or 0)
end

-- All lines of the cart, in the order of their numbers.
local function all_lines(cart)
  local lines = {}
  local fields = redis.call('HKEYS', cart.key)
  for i = 1, #fields do
    if string.sub(fields[i], 1, 2) == 'l:' then
      lines[#lines + 1] = open_line(cart, string.sub(fields[i], 3))
    end
  end
  table.sort(lines, by_number)
  return lines
end

-- Of the cart's lines (in its `fields`), those that hold units until `latest` or before, at most
-- `most`; in the order of their numbers.
local function held_lines(cart, fields, latest, most)
  local lines = {}
  for i = 1, #fields, 2 do
    local sku = string.match(fields[i], '^h:(.*)$')
    if sku and tonumber(string.match(fields[i + 1], '^%d+') or 0) <= latest and #lines < most then
      lines[#lines + 1] = open_line(cart, sku)
    end
  end
  table.sort(lines, by_number)
  return lines
end

local function take(counter, units)
  if units ~= 0 then
    redis.call('HINCRBY', stock, counter, -units)
    redis.call('HINCRBY', held, counter, units)
  end
end

local function hold_name(cart, line, counter, deadline)
  return counter .. ' ' .. deadline .. ' ' .. line.sku .. ' ' .. cart.key
end

-- Make the line hold `units` of a counter until a deadline; nothing without a counter.
local function hold(cart, line, units, counter, deadline)
  if line.counter == counter then
    if counter then
      take(counter, units - line.units)
    end
  else
    if line.counter then
      take(line.counter, -line.units)
    end
    if counter then
      take(counter, units)
    end
  end
  if line.counter == counter and line.deadline == deadline then
    return
  end
  if line.counter then
    redis.call('ZREM', holds_by_sku, hold_name(cart, line, line.counter, line.deadline))
    redis.call('HDEL', cart.key, 'h:' .. line.sku)
    cart.lost_hold = true
  end
  if counter then
    redis.call('ZADD', holds_by_sku, 0, hold_name(cart, line, counter, deadline))
    redis.call('HSET', cart.key, 'h:' .. line.sku, deadline .. ' ' .. counter)
    cart.due = math.min(cart.due, deadline)
    cart.new_hold = true
  end
end

-- What a line fixes beside its price: whether that is fixed too, name, variant, images.
local function about_of(line)
  return line.rest and string.match(line.rest, '^,"added":%d+,(.*)}$')
end

-- Whether the line has a price of its own, that the catalogue's does not replace.
local function is_fixed(line)
  return line.rest and string.match(line.rest, '^,"added":%d+,"fixed":1,')
end

local function write_facts(cart, line)
  redis.call('HSET', cart.key, 'l:' .. line.sku,
    '{"line":' .. line.number .. ',"price":' .. line.price .. line.rest)
end

-- Note when a line that the cart had already was changed.
local function touch(cart, line)
  redis.call('HSET', cart.key, 'u:' .. line.sku, now)
end

local function change_price(cart, line, price)
  redis.call('XADD', prices, '*', 'cart', cart.id, 'line', line.number, 'version', cart.version,
    'sku', line.sku, 'old', line.price, 'new', price, 'at', now)
  line.price = price
  write_facts(cart, line)
  touch(cart, line)
end

-- Give the line the catalogue's price, and record that it changed. Whether it did.
local function take_price(cart, line, price)
  if line.price == price or is_fixed(line) then
    return false
  end
  change_price(cart, line, price)
  return true
end

-- A line that the cart does not have yet, of no units.
local function make_line(cart, line, price, about)
  cart.lines = cart.lines + 1
  cart.last_line = cart.last_line + 1
  line.number, line.price = cart.last_line, price
  line.rest = ',"added":' .. now .. ',' .. about .. '}'
  write_facts(cart, line)
  redis.call('ZADD', holders, 0, line.sku .. ' ' .. cart.key)
end

local function remove_line(cart, line)
  hold(cart, line, 0)
  local sku = line.sku
  redis.call('HDEL', cart.key, 'q:' .. sku, 'l:' .. sku, 'h:' .. sku, 's:' .. sku, 'u:' .. sku)
  redis.call('ZREM', holders, sku .. ' ' .. cart.key)
  cart.lines = cart.lines - 1
end

-- Take lines that held units from a cart whose owner did not ask for it, and will be told.
local function take_away(cart, lines, reason)
  for _, line in ipairs(lines) do
    remove_line(cart, line)
    add_notice(cart, line.sku, line.units, reason)
  end
  cart.lost_hold = true
end
