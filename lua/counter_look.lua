#!lua
-- counter_look: a counter's units at one instant, as they are written, and as carts hold them.
--
-- uses books, holding
-- Returns  {'OK', {free, held, sold, received, units in carts}}; nil where one is missing, and for
--          the last where other carts hold units
--        | {'NOT_WARM'}

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
return { 'OK', {
  redis.call('HGET', stock, counter),
  redis.call('HGET', held, counter),
  redis.call('HGET', sold, counter),
  redis.call('HGET', received, counter),
  units_in_carts() or false,
} }
