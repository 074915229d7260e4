-- cart: contract 000's POST /api/cart in nginx, over connections to Redis that are kept open.

local cjson = require('cjson.safe')
local redis = require('nginx.redis')

local find, lower, sub = ngx.re.find, string.lower, string.sub
local floor, format = math.floor, string.format

local TIMEOUT_MS = 800
local IDLE_MS = 60000
local POOL = 64 -- connections that stay open

local setup
local call -- what stands before the cart's key in a call: SHA, number of keys, shared keys

local _M = {}

-- `file` holds, as JSON: redis, script, sha, shared (keys), cart (a key without its session), terms.
function _M.open(file)
  local source = assert(io.open(file))
  setup = assert(cjson.decode(source:read('*a')))
  source:close()
  call = { setup.sha, #setup.shared + 1, unpack(setup.shared) }
end

-- A refusal is thrown, as a table.
local function refuse(status, code, message, facts)
  facts = facts or {}
  facts.code = code
  error({ status = status, message = message, facts = facts }, 0)
end

local function unavailable()
  refuse(503, 'unavailable', 'Cart service is not available now, please try again')
end

local function not_found()
  refuse(404, 'product_not_found', 'Product not found or not available')
end

local refusals = {
  UNKNOWN_PRODUCT = not_found,
  INACTIVE_PRODUCT = not_found,
  OUT_OF_STOCK = function(reply)
    local free, in_cart = tonumber(reply[3]), tonumber(reply[4])
    refuse(400, 'insufficient_stock',
      format('Insufficient stock. Available: %d, already in cart: %d', free, in_cart),
      { available = free, in_cart = in_cart })
  end,
  CART_FULL = function(reply)
    local most = tonumber(reply[2])
    refuse(400, 'cart_full', format('Cart is full: at most %d items', most), { max_items = most })
  end,
  NOT_WARM = unavailable,
  NO_COUNTER = unavailable,
  HOLDS_DUE = unavailable,
  SALE_PAUSED = unavailable,
  FAILED = unavailable,
}

-- As (session, product, quantity).
local function asked()
  ngx.req.read_body()
  local body = cjson.decode(ngx.req.get_body_data() or '')
  if type(body) ~= 'table' then
    refuse(400, 'invalid_body', 'Request body must be a JSON object')
  end
  local session, product, quantity = body.session_id, body.product_id, body.quantity
  if type(product) ~= 'string' or not find(product, [[^[0-9a-fA-F]{24}\z]], 'jo') then
    refuse(400, 'invalid_product_id', 'product_id must be a string of 24 hexadecimal digits')
  end
  if type(quantity) ~= 'number' or quantity < 1 or quantity > 100
    or floor(quantity) ~= quantity then
    refuse(400, 'invalid_quantity', 'quantity must be a whole number from 1 to 100')
  end
  if session == nil or session == cjson.null then
    session = ngx.var.request_id
  elseif type(session) ~= 'string' or not find(session, [[^[A-Za-z0-9._~-]{1,128}\z]], 'jo') then
    refuse(400, 'invalid_session_id',
      "session_id must be a string of 1 to 128 letters, digits, '.', '_', '~' or '-'")
  end
  return session, lower(product), quantity
end

local function connected()
  local client = redis:new()
  client:set_timeout(TIMEOUT_MS)
  if not client:connect(setup.redis.host, setup.redis.port) then
    unavailable()
  end
  if client:get_reused_times() == 0 and not client:auth(setup.redis.password) then
    unavailable()
  end
  return client
end

local function run(session, product, quantity)
  local client = connected()
  local words = { unpack(call) }
  local n = #words
  words[n + 1] = setup.cart .. session
  words[n + 2] = format('%.0f', ngx.now() * 1000)
  for i, term in ipairs(setup.terms) do
    words[n + 2 + i] = term
  end
  n = #words
  words[n + 1], words[n + 2] = product, quantity
  local reply, problem = client:evalsha(unpack(words))
  if not reply and problem and sub(problem, 1, 8) == 'NOSCRIPT' then
    words[1] = setup.script
    reply = client:eval(unpack(words))
  end
  if not reply then
    client:close()
    unavailable()
  end
  client:set_keepalive(IDLE_MS, POOL)
  reply = reply[2][1] -- of many carts, one each
  if reply[1] ~= 'OK' then
    (refusals[reply[1]] or function()
      refuse(400, lower(reply[1]), "The product can't be added")
    end)(reply)
  end
  return reply[2]
end

local told, told_text

-- The text of a second is made once.
local function timestamp(seconds)
  if seconds ~= told then
    told, told_text = seconds, os.date('!%Y-%m-%dT%H:%M:%SZ', seconds)
  end
  return told_text
end

local function by_number(a, b)
  return a.line < b.line
end

-- The cart that the fields and values of its hash describe.
local function view(flat)
  local lines, quantities, updated = {}, {}, 0
  for i = 1, #flat, 2 do
    local name, value = flat[i], flat[i + 1]
    local kind = sub(name, 1, 2)
    if kind == 'q:' then
      quantities[sub(name, 3)] = tonumber(value)
    elseif kind == 'l:' then
      local line = cjson.decode(value)
      line.sku = sub(name, 3)
      lines[#lines + 1] = line
    elseif name == 'updated' then
      updated = tonumber(value)
    end
  end
  table.sort(lines, by_number)
  local items, units, total = {}, 0, 0
  for i, line in ipairs(lines) do
    local quantity = quantities[line.sku]
    units = units + quantity
    total = total + quantity * line.price
    items[i] = {
      product_id = line.sku,
      product_name = line.name,
      price = line.price / 100,
      quantity = quantity,
      subtotal = quantity * line.price / 100,
    }
  end
  return {
    items = items,
    total_items = units,
    total_amount = total / 100,
    updated_at = timestamp(floor(updated / 1000)),
  }
end

local function add()
  local session, product, quantity = asked()
  local cart = view(run(session, product, quantity))
  return {
    success = true,
    data = { session_id = session, cart = cart },
    message = 'Item added to cart successfully',
  }
end

local function send(status, content)
  local body = cjson.encode(content)
  ngx.status = status
  ngx.header.content_type = 'application/json'
  ngx.header.content_length = #body
  ngx.print(body)
end

function _M.answer()
  if ngx.req.get_method() ~= 'POST' then
    ngx.header.allow = 'POST'
    return send(405, { success = false, message = 'Method Not Allowed' })
  end
  local done, content = pcall(add)
  if done then
    return send(200, content)
  end
  if type(content) ~= 'table' then
    ngx.log(ngx.ERR, content)
    content = { status = 500, message = 'Internal server error', facts = {} }
  end
  if content.status == 503 then
    ngx.header.retry_after = '1'
  end
  send(content.status, { success = false, message = content.message, error = content.facts })
end

return _M
