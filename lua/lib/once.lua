-- once: a request with an idempotency key is carried out once. Its outcome, granted or refused, is
-- kept as Redis replied it, and given to every request of that key.
--
-- Refuses  {'KEY_REUSED'}
--        | {'KEYS_SPENT', max_keys, wait}
--        | {'AGAIN', kept}; fingerprint, time (ms), cart key, session and reply, as Redis sends them

-- Replies that decide nothing: the same request may come out otherwise a moment later.
local UNDECIDED = {
  NOT_WARM = true, NO_COUNTER = true, HOLDS_DUE = true, COLD = true, SALE_PAUSED = true,
}

-- The request, made `at` (ms) about a cart (its key); nil where it has no idempotency key. `terms`
-- is '' then, else '<its fingerprint> <ms for which its outcome is kept> <keys that an owner may use
-- in that time> <the session that was made for its answer, if any>'; `outcome` and `count` are the
-- KEYS of its outcome, and of how many are used.
local function once_of(at, terms, cart, outcome, count)
  if terms == '' then
    return nil
  end
  local fingerprint, keep_ms, max_keys, session = string.match(terms, '^(%x+) (%d+) (%d+) (.*)$')
  return { at = at, cart = cart, key = outcome, count = { key = count }, session = session,
    fingerprint = fingerprint, keep_ms = keep_ms, max_keys = tonumber(max_keys) }
end

-- The one request of a script that changes the cart at KEYS[15]: its own keys are the last.
local function open_once(terms)
  return once_of(ARGV[1], terms, KEYS[15], KEYS[#KEYS - 1], KEYS[#KEYS])
end

-- What was replied to the request before, or why it is not carried out; nil if it is new.
local function answered(once)
  if not once then
    return nil
  end
  local count = once.count
  local kept = redis.call('GET', once.key)
  if not kept then
    local is_spent = tonumber(redis.call('GET', count.key) or 0) >= once.max_keys
    return is_spent and { 'KEYS_SPENT', once.max_keys, redis.call('PTTL', count.key) } or nil
  elseif string.match(kept, '^%*5\r\n%$%d+\r\n(%x+)\r\n') ~= once.fingerprint then
    return { 'KEY_REUSED' }
  end
  return { 'AGAIN', kept }
end

-- A reply as Redis sends it.
local function as_sent(value)
  if type(value) == 'table' then
    local parts = { '*' .. #value .. '\r\n' }
    for i, part in ipairs(value) do
      parts[i + 1] = as_sent(part)
    end
    return table.concat(parts)
  end
  if type(value) == 'number' then
    return string.format(':%.0f\r\n', value)
  end
  return '$' .. #value .. '\r\n' .. value .. '\r\n'
end

-- End the script with a reply, and let it be the outcome of the request.
local function conclude(once, reply)
  if once and not UNDECIDED[reply[1]] then
    local count = once.count
    local kept = as_sent({ once.fingerprint, once.at, once.cart, once.session, reply })
    redis.call('SET', once.key, kept, 'PX', once.keep_ms)
    if redis.call('INCR', count.key) == 1 then
      redis.call('PEXPIRE', count.key, once.keep_ms)
    end
  end
  return reply
end
