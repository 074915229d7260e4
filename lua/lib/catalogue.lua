-- catalogue: a SKU's record, which catalog.py writes: JSON whose fields stand in one order.
--
-- Refuses  {'UNKNOWN_PRODUCT', product_id}
--        | {'UNKNOWN_VARIANT', product_id, variant_id}

local known = {} -- SKU -> its record, of this run

local function rule(rules, name)
  return tonumber(string.match(rules, '"' .. name .. '":(%d+)'))
end

-- The record of a SKU, or nil.
local function record_of(sku)
  local record = known[sku]
  if record then
    return record
  end
  local text = redis.call('HGET', catalogue, sku)
  if not text then
    return nil
  end
  local price, active, own_policy, counter, several, rules, about = string.match(text,
    '^{"price":(%d+),"active":(%d),"policy":"(%a*)","counter":"([^"]+)","several":(%d),'
      .. '"rules":{([^}]*)},"variants":%[[^%]]*%],"about":{(.*)}}$')
  if not price then
    error('the record of ' .. sku .. ' is not readable')
  end
  record = {
    product_id = string.match(sku, '^[^/]+'),
    price = price,
    active = active == '1',
    policy = own_policy ~= '' and own_policy or policy,
    counter = counter,
    several = several == '1', -- the product has, or had, more SKUs than one
    hold_ms = hold_ms,
    about = about, -- what a line fixes: name, variant, image
  }
  if rules ~= '' then
    record.limited = true
    record.hold_ms = rule(rules, 'hold_ms') or hold_ms
    record.starts, record.ends = rule(rules, 'starts'), rule(rules, 'ends')
    record.max_per_order = rule(rules, 'max_per_order')
    record.min_per_order = rule(rules, 'min_per_order')
    record.max_per_buyer = rule(rules, 'max_per_buyer')
  end
  known[sku] = record
  return record
end

-- Why there is no record.
local function unknown(sku)
  local product_id, variant_id = string.match(sku, '^([^/]+)/(.+)$')
  if variant_id and redis.call('HEXISTS', catalogue, product_id) == 1 then
    return { 'UNKNOWN_VARIANT', product_id, variant_id }
  end
  return { 'UNKNOWN_PRODUCT', product_id or sku }
end
