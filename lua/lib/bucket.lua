-- bucket: what every script that changes carts is given: the bucket's keys, the time, the terms.
--
-- KEYS[1]   seq           string  the last cart id given; missing: the bucket is not warm
-- KEYS[2]   catalogue     hash    SKU -> its record
-- KEYS[3]   stock         hash    counter -> units free
-- KEYS[4]   held          hash    counter -> units held by carts
-- KEYS[5]   sold          hash    counter -> units sold
-- KEYS[6]   holds         zset    cart key -> its earliest deadline, ms
-- KEYS[7]   holds_by_sku  zset    '<counter> <deadline> <sku> <cart key>', by name
-- KEYS[8]   holders       zset    '<sku> <cart key>', by name
-- KEYS[9]   buyers        hash    '<product> <sale's start> <owner>' -> units ordered, where limited
-- KEYS[10]  carts         hash    cart id -> cart key
-- KEYS[11]  dirty         zset    cart key -> oldest unflushed change, ms
-- KEYS[12]  prices        stream  price changes of cart lines
-- KEYS[13]  cold          hash    owner -> id of the active cart that only PostgreSQL has
-- KEYS[14]  paused        string  there while the sale is paused: why, by whom, since when
-- ARGV[1]   now           ms
-- ARGV[2]   max_lines     distinct lines a cart may hold
-- ARGV[3]   policy        of products that name none: 'check', 'hold' or 'untracked'
-- ARGV[4]   hold_ms       how long products that say nothing else are held

local seq, catalogue, stock, held = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local sold, holds, holds_by_sku, holders = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local buyers, carts, dirty, prices = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local cold, paused = KEYS[13], KEYS[14]
local now, max_lines = tonumber(ARGV[1]), tonumber(ARGV[2])
local policy, hold_ms = ARGV[3], tonumber(ARGV[4])

local MAX_UNITS = 999999999 -- nine digits: exact in Lua, an integer in PostgreSQL

-- A quantity as a number. What tonumber alone takes ('0x10', '1e3', '-1') is none.
local function whole(text)
  if not string.match(text, '^[1-9]%d*$') or #text > 9 then
    error('a quantity is a whole number from 1 to ' .. MAX_UNITS)
  end
  return tonumber(text)
end
