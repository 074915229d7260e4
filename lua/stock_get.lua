#!lua
-- stock_get: a counter's units at one instant.
--
-- uses books
-- Returns  {'OK', {free, held, sold}}
--        | {'NOT_WARM'}
--        | {'NO_COUNTER', counter}

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
elseif not count() then
  return { 'NO_COUNTER', counter }
end
return report()
