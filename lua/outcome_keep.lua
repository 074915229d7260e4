#!lua
-- outcome_keep: let OK be the outcome of a request that no script decides, unless it has one.
--
-- uses once
-- KEYS[1+]  once  string  outcome and count, of the request
-- ARGV[1]   now   ms
-- ARGV[2]   once  what lib/once says of it
-- Returns   {'OK', ''}

local now, once = ARGV[1], ARGV[2]

local request = once_of(now, once, '', KEYS[1], KEYS[2])
local seen = answered(request)
if seen then
  return seen
end

-- Nothing below may fail: Redis does not undo writes.

return conclude(request, { 'OK', '' })
