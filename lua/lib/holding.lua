-- holding: the units of a counter that carts hold, added up from their lines.
--
-- KEYS[6]   holds_by_sku  zset  '<counter> <deadline> <sku> <cart key>', by name
-- KEYS[7+]  cart          hash  the carts that hold units of the counter

local holds_by_sku = KEYS[6]

-- nil where a cart that holds some was not given.
local function units_in_carts()
  local given, seen, units = {}, {}, 0
  for i = 7, #KEYS do
    given[KEYS[i]] = KEYS[i]
  end
  local names = redis.call('ZRANGEBYLEX', holds_by_sku,
    '[' .. counter .. ' ', '(' .. counter .. '!')
  for _, name in ipairs(names) do
    local line, sku, place = string.match(name, '^[^ ]+ %d+ (([^ ]+) (.*))$')
    local cart = line and given[place]
    if line and not cart then
      return nil
    elseif line and not seen[line] then
      seen[line] = true
      local found = redis.call('HMGET', cart, 'h:' .. sku, 'q:' .. sku)
      if found[1] and string.match(found[1], '^%d+ (.+)$') == counter then
        units = units + (tonumber(found[2]) or 0)
      end
    end
  end
  return units
end
