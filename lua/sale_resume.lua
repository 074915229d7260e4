#!lua
-- sale_resume: let the sale of a bucket go on.
--
-- KEYS[1]  paused  string  there while the sale is paused
-- Returns  {'OK', {what was there}}; {'OK', {}} if it was not paused

local paused = KEYS[1]

local before = redis.call('GET', paused)

-- Nothing below may fail: Redis does not undo writes.

redis.call('DEL', paused)
return { 'OK', { before or nil } }
