#!lua
-- bucket_open: give a new bucket its sequence; from then on it is warm. An open one stays as it is.
--
-- KEYS[1]  seq       string  the last cart id given
-- ARGV[1]  first_id  the id that stands before the first cart's
-- Returns  {'OK', whether this call opened it: 1 or 0}

local seq = KEYS[1]
local first_id = ARGV[1]

return { 'OK', redis.call('SETNX', seq, first_id) }
