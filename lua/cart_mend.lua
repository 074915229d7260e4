#!lua
-- cart_mend: a cart, and what the indexes say of it that it does not say itself, or do not say; they
-- are made to say what it does, if that is asked for.
--
-- KEYS[1]  seq           string  the last cart id given; missing: the bucket is not warm
-- KEYS[2]  carts         hash    cart id -> cart key
-- KEYS[3]  dirty         zset    cart key -> oldest unflushed change, ms
-- KEYS[4]  holds         zset    cart key -> its earliest deadline, ms
-- KEYS[5]  holds_by_sku  zset    '<counter> <deadline> <sku> <cart key>', by name
-- KEYS[6]  holders       zset    '<sku> <cart key>', by name
-- KEYS[7]  cold          hash    owner -> id of the active cart that only PostgreSQL has
-- KEYS[8]  cart          hash    active or closed, or not there
-- ARGV[1]  mend    1 to make it right, else 0
-- ARGV[2]  index   that names the cart: carts, holds, holds_by_sku or holders; '' for none
-- ARGV[3]  member  how
-- Returns  {'OK', the cart's fields and values, 1 if it is dirty else 0, wrong}; of each that is or
--          was wrong: index, or field of the cart; member; what is there; what should be; '' for none
--        | {'NOT_WARM'}

local seq, carts, dirty, holds = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holds_by_sku, holders, cold, cart = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local mend, index, member = ARGV[1], ARGV[2], ARGV[3]

local by_name = { holds = holds, holds_by_sku = holds_by_sku, holders = holders }
local fields, value = redis.call('HGETALL', cart), {}
local wrong, looked_at = {}, {}

local function expect(where, name, is, ought)
  looked_at[where .. ' ' .. name] = true
  is, ought = is or '', ought or ''
  if is ~= ought then
    wrong[#wrong + 1] = { where, name, is, ought }
  end
end

local function score(where, name)
  local zset = by_name[where]
  return redis.call('ZSCORE', zset, name)
end

local function expect_lines()
  local is_active = value.status == 'ACTIVE'
  local lines, due = 0, nil
  for field, text in pairs(value) do
    local kind, sku = string.match(field, '^([lh]):(.*)$')
    if kind == 'l' then
      lines = lines + 1
      local name = sku .. ' ' .. cart
      expect('holders', name, score('holders', name), is_active and '0')
    elseif kind == 'h' then
      local deadline, counter = string.match(text, '^(%d+) (.+)$')
      if deadline then
        local name = counter .. ' ' .. deadline .. ' ' .. sku .. ' ' .. cart
        expect('holds_by_sku', name, score('holds_by_sku', name), is_active and '0')
        due = (not due or tonumber(deadline) < tonumber(due)) and deadline or due
      end
    end
  end
  expect('lines', '', value.lines, tostring(lines))
  expect('due', '', value.due, due)
  expect('holds', cart, score('holds', cart), due)
end

local function expect_no_marker()
  local owner = string.match(cart, '^[^}]*}:(.*)$')
  local marker = owner and redis.call('HGET', cold, owner)
  if value.status == 'ACTIVE' and marker and string.match(marker, '^%d+') == value.id then
    expect('cold', owner, marker, '')
  end
end

-- What names the cart, and is nothing that the cart has.
local function expect_not_named()
  if index == '' or looked_at[index .. ' ' .. member] then
    return
  elseif index == 'carts' then
    expect('carts', member, redis.call('HGET', carts, member) == cart and cart, '')
  else
    expect(index, member, score(index, member), '')
  end
end

local function put_right(where, name, is, ought)
  local zset = by_name[where]
  if zset and ought == '' then
    redis.call('ZREM', zset, name)
  elseif zset then
    redis.call('ZADD', zset, ought, name)
  elseif where == 'carts' and ought == '' then
    redis.call('HDEL', carts, name)
  elseif where == 'carts' and is == '' then
    redis.call('HSET', carts, name, ought)
  elseif where == 'cold' then
    redis.call('HDEL', cold, name)
  elseif where ~= 'carts' and ought == '' then
    redis.call('HDEL', cart, where)
  elseif where ~= 'carts' then
    redis.call('HSET', cart, where, ought)
  end
end

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
for i = 1, #fields, 2 do
  value[fields[i]] = fields[i + 1]
end
if value.id then
  expect('carts', value.id, redis.call('HGET', carts, value.id), cart)
  expect_lines()
  expect_no_marker()
end
expect_not_named()
local is_dirty = redis.call('ZSCORE', dirty, cart) and 1 or 0

-- Nothing below may fail: Redis does not undo writes.

if mend == '1' then
  for _, one in ipairs(wrong) do
    put_right(one[1], one[2], one[3], one[4])
  end
end
return { 'OK', fields, is_dirty, wrong }
