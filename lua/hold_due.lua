#!lua
-- hold_due: carts that hold units of a counter although their time is up, the oldest first.
--
-- KEYS[1]  holds_by_sku  zset  '<counter> <deadline> <sku> <cart key>', by name
-- ARGV[1]  now           ms
-- ARGV[2]  counter
-- ARGV[3]  limit         lines
-- Returns  {'OK', cart keys}

local holds_by_sku = KEYS[1]
local now, counter, limit = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local names = redis.call('ZRANGEBYLEX', holds_by_sku,
  '[' .. counter .. ' ', '(' .. counter .. ' ' .. now + 1, 'LIMIT', 0, limit)
for i = 1, #names do
  names[i] = string.match(names[i], '^[^ ]+ %d+ [^ ]+ (.*)$')
end
return { 'OK', names }
