#!lua
-- stock_watch: change which counters are watched, at most so many.
--
-- KEYS[1]   watched  set  counters (SKUs) whose stock is shown
-- ARGV[1]   most     counters that may be watched
-- ARGV[2]   how      'on' adds the counters, 'off' takes them away, 'only' leaves no others
-- ARGV[3+]  counter  each once
-- Returns   {'OK', ''}
--         | {'TOO_MANY_WATCHED', most}

local watched = KEYS[1]
local most, how = tonumber(ARGV[1]), ARGV[2]

-- How many more are watched with those that come.
local function coming()
  local count = 0
  for i = 3, #ARGV do
    if how == 'only' or redis.call('SISMEMBER', watched, ARGV[i]) == 0 then
      count = count + 1
    end
  end
  return count
end

local before = how == 'only' and 0 or redis.call('SCARD', watched)
if how ~= 'off' and before + coming() > most then
  return { 'TOO_MANY_WATCHED', most }
end

-- Nothing below may fail: Redis does not undo writes.

if how == 'only' then
  redis.call('DEL', watched)
end
for i = 3, #ARGV do
  if how == 'off' then
    redis.call('SREM', watched, ARGV[i])
  else
    redis.call('SADD', watched, ARGV[i])
  end
end
return { 'OK', '' }
