-- cart: a cart and its notices: opening it, and ending a script that has changed it.
--
-- Refuses  {'NOT_WARM'}
--        | {'COLD', cart key, cart_id}
--        | {'HOLDS_DUE', cart key, counter}
--        | {'CART_FULL', max_lines}
--        | {'CART_SPENT', max_line}

local ID_STEP = 256 -- between two cart ids of a bucket: the low bits are the bucket's number
local MAX_LINE = 4095 -- a line's number is twelve bits of its item id, and is given once

-- `id` is false where there is no cart.
local function open_cart(key)
  local facts = redis.call('HMGET', key, 'id', 'version', 'lines', 'last_line', 'due', 'notices')
  return {
    key = key,
    id = facts[1],
    version = tonumber(facts[2] or 0) + 1, -- the one that a change makes
    lines = tonumber(facts[3] or 0),
    last_line = tonumber(facts[4] or 0),
    due = tonumber(facts[5] or math.huge), -- the earliest deadline of its lines
    notices = facts[6], -- what happened to its lines and the owner was not told yet
  }
end

-- '<kind>:<owner>'
local function owner_of(cart)
  return string.match(cart.key, '^[^}]*}:(.*)$')
end

-- A refusal too tells the owner what happened, but a cart that nobody changed goes on telling.
local function refuse(cart, reply)
  reply[#reply + 1] = cart.notices or ''
  return reply
end

-- The reply if only PostgreSQL has the owner's cart, or nil.
local function is_cold(cart)
  local marker = redis.call('HGET', cold, owner_of(cart))
  if marker then
    return { 'COLD', cart.key, string.match(marker, '^%d+') }
  end
end

-- Why the cart can't be changed now, or nil.
local function not_now(cart)
  if redis.call('EXISTS', seq) == 0 then
    return { 'NOT_WARM' }
  elseif not cart.id then
    return is_cold(cart)
  elseif cart.due <= now then
    return { 'HOLDS_DUE', cart.key, '' }
  end
end

-- Why the cart has no place for more lines, or nil.
local function no_place(cart, new_lines)
  if new_lines > 0 and cart.lines + new_lines > max_lines then
    return { 'CART_FULL', max_lines }
  elseif cart.last_line + new_lines > MAX_LINE then
    return { 'CART_SPENT', MAX_LINE }
  end
end

local function add_news(cart, news)
  if news then
    cart.notices = cart.notices and cart.notices .. ',' .. news or news
    cart.has_news = true
  end
end

local function add_notice(cart, sku, quantity, reason)
  add_news(cart,
    '{"sku":"' .. sku .. '","quantity":' .. quantity .. ',"reason":"' .. reason .. '"}')
end

local function make_cart(cart)
  cart.id = redis.call('INCRBY', seq, ID_STEP)
  redis.call('HSET', cart.key, 'id', cart.id, 'status', 'ACTIVE', 'created', now)
  redis.call('HSET', carts, cart.id, cart.key)
end

-- Look up the cart's earliest deadline, and let `holds` know it.
local function keep_deadline(cart)
  if cart.lost_hold then
    cart.due = math.huge
    local fields = redis.call('HGETALL', cart.key)
    for i = 1, #fields, 2 do
      if string.sub(fields[i], 1, 2) == 'h:' then
        cart.due = math.min(cart.due, tonumber(string.match(fields[i + 1], '^%d+') or 0))
      end
    end
  end
  if cart.due == math.huge then
    redis.call('HDEL', cart.key, 'due')
    redis.call('ZREM', holds, cart.key)
  else
    redis.call('HSET', cart.key, 'due', cart.due)
    redis.call('ZADD', holds, cart.due, cart.key)
  end
end

-- Write what has changed of the cart beside its lines.
local function keep(cart)
  redis.call('HSET', cart.key, 'version', cart.version, 'updated', now,
    'lines', cart.lines, 'last_line', cart.last_line)
  if cart.has_news then
    redis.call('HSET', cart.key, 'notices', cart.notices)
  end
  if cart.lost_hold or cart.new_hold then
    keep_deadline(cart)
  end
  redis.call('ZADD', dirty, 'NX', now, cart.key)
end

-- Somebody else's response: the owner is still to be told.
local function show(cart)
  return { 'OK', redis.call('HGETALL', cart.key) }
end

-- The owner's response: with the cart goes what there was to tell.
local function tell(cart)
  local reply = show(cart)
  if cart.notices then
    redis.call('HDEL', cart.key, 'notices')
  end
  return reply
end

-- Take the cart from its owner, as `status`; it waits under another key to be flushed.
local function close_as(status, cart, lines, closed)
  for _, line in ipairs(lines) do
    redis.call('ZREM', holders, line.sku .. ' ' .. cart.key)
  end
  redis.call('HSET', cart.key, 'status', status)
  keep(cart)
  local reply = tell(cart)
  redis.call('RENAME', cart.key, closed)
  redis.call('HSET', carts, cart.id, closed)
  redis.call('ZREM', dirty, cart.key)
  redis.call('ZADD', dirty, now, closed)
  return reply
end
