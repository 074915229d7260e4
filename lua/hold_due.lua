#!lua
-- hold_due: carts that hold units of a counter although their time is up, the oldest first.
--
-- uses bucket, cart, line, catalogue, terms
-- ARGV[5]  counter
-- ARGV[6]  limit    lines
-- Returns  {'OK', cart keys, one per line}

local counter, limit = ARGV[5], ARGV[6]

local names = names_due(counter, limit)
for i = 1, #names do
  names[i] = string.match(names[i], '^[^ ]+ %d+ [^ ]+ (.*)$')
end
return { 'OK', names }
