#!lua
-- outcome_find: what a request with an idempotency key was answered before.
--
-- uses once
-- KEYS[1+]  once  string  outcome and count, of the request
-- ARGV[1]   once  what lib/once says of it
-- Returns   {'OK', ''}; nothing yet

local once = ARGV[1]

return answered(once_of('', once, '', KEYS[1], KEYS[2])) or { 'OK', '' }
