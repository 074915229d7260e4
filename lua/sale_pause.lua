#!lua
-- sale_pause: pause the sale of a bucket; paused again, it is for the later reason.
--
-- KEYS[1]  seq     string  the last cart id given; missing: the bucket is not warm
-- KEYS[2]  paused  string  there while the sale is paused
-- ARGV[1]  pause   why, by whom, since when
-- Returns  {'OK', {what was there before}}; {'OK', {}} if it was not paused
--        | {'NOT_WARM'}

local seq, paused = KEYS[1], KEYS[2]
local pause = ARGV[1]

if redis.call('EXISTS', seq) == 0 then
  return { 'NOT_WARM' }
end
local before = redis.call('GET', paused)

-- Nothing below may fail: Redis does not undo writes.

redis.call('SET', paused, pause)
return { 'OK', { before or nil } }
