// Fastify with ioredis: the request by JSON schema, the response by a compiled one, the script as a
// command of the client's own, which sends it by its SHA and in full where Redis does not know it.

import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import Fastify from 'fastify'
import { Redis } from 'ioredis'

const [port, file] = process.argv.slice(2)
const setup = JSON.parse(readFileSync(file, 'utf8'))

const redis = new Redis({
  ...setup.redis,
  enableOfflineQueue: false,
  // A command whose reply was lost may have been done: the client must not repeat it.
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
})
redis.on('error', () => {}) // each request says so itself
redis.defineCommand('cartAdd', { lua: setup.script, numberOfKeys: setup.shared.length + 1 })

const string = { type: 'string' }
const integer = { type: 'integer' }
const number = { type: 'number' }

const request = {
  type: 'object',
  required: ['product_id', 'quantity'],
  properties: {
    product_id: { type: 'string', pattern: '^[0-9a-fA-F]{24}$' },
    quantity: { type: 'integer', minimum: 1, maximum: 100 },
    session_id: { type: 'string', nullable: true, pattern: '^[A-Za-z0-9._~-]{1,128}$' },
  },
}

const object = (properties) => ({ type: 'object', properties })

const item = object({
  product_id: string,
  product_name: string,
  price: number,
  quantity: integer,
  subtotal: number,
})

const added = object({
  success: { type: 'boolean' },
  data: object({
    session_id: string,
    cart: object({
      items: { type: 'array', items: item },
      total_items: integer,
      total_amount: number,
      updated_at: string,
    }),
  }),
  message: string,
})

class Refused extends Error {
  constructor(statusCode, code, message, facts = {}) {
    super(message)
    this.statusCode = statusCode
    this.error = { code, ...facts }
  }
}

const notFound = () =>
  new Refused(404, 'product_not_found', 'Product not found or not available')
const unavailable = () =>
  new Refused(503, 'unavailable', 'Cart service is not available now, please try again')

const refusals = {
  UNKNOWN_PRODUCT: notFound,
  INACTIVE_PRODUCT: notFound,
  OUT_OF_STOCK: (_, free, in_cart) =>
    new Refused(
      400,
      'insufficient_stock',
      `Insufficient stock. Available: ${free}, already in cart: ${in_cart}`,
      { available: Number(free), in_cart: Number(in_cart) },
    ),
  CART_FULL: (most) =>
    new Refused(400, 'cart_full', `Cart is full: at most ${most} items`, {
      max_items: Number(most),
    }),
  NOT_WARM: unavailable,
  NO_COUNTER: unavailable,
  HOLDS_DUE: unavailable,
  SALE_PAUSED: unavailable,
  FAILED: unavailable,
}

const refusal = ([code, ...facts]) =>
  refusals[code]?.(...facts) ??
  new Refused(400, code.toLowerCase(), "The product can't be added")

// The cart that the fields and values of its hash describe.
function view(flat) {
  const quantities = new Map()
  const lines = []
  let updated = 0
  for (let i = 0; i < flat.length; i += 2) {
    const name = flat[i]
    if (name.startsWith('q:')) quantities.set(name.slice(2), Number(flat[i + 1]))
    else if (name.startsWith('l:')) lines.push([name.slice(2), JSON.parse(flat[i + 1])])
    else if (name === 'updated') updated = Number(flat[i + 1])
  }
  lines.sort((a, b) => a[1].line - b[1].line)
  let units = 0
  let total = 0
  const items = lines.map(([product_id, { name, price }]) => {
    const quantity = quantities.get(product_id)
    units += quantity
    total += quantity * price
    return {
      product_id,
      product_name: name,
      price: price / 100,
      quantity,
      subtotal: (quantity * price) / 100,
    }
  })
  return {
    items,
    total_items: units,
    total_amount: total / 100,
    updated_at: new Date(updated).toISOString().slice(0, 19) + 'Z',
  }
}

const app = Fastify({
  logger: false,
  bodyLimit: 65536,
  // "1" is no number.
  ajv: { customOptions: { coerceTypes: false } },
})

app.post('/api/cart', { schema: { body: request, response: { 200: added } } }, async ({ body }) => {
  const product = body.product_id.toLowerCase()
  const session = body.session_id ?? randomBytes(24).toString('base64url')
  const key = setup.cart + session
  let reply
  try {
    const [, replies] = await redis.cartAdd(
      ...setup.shared, key, Date.now(), ...setup.terms, product, body.quantity,
    )
    reply = replies[0] // of many carts, one each
  } catch {
    throw unavailable()
  }
  if (reply[0] !== 'OK') throw refusal(reply)
  return {
    success: true,
    data: { session_id: session, cart: view(reply[1]) },
    message: 'Item added to cart successfully',
  }
})

function code(error) {
  const [found] = error.validation ?? []
  if (!found) return 'invalid_body'
  return `invalid_${found.params.missingProperty ?? (found.instancePath.slice(1) || 'body')}`
}

app.setErrorHandler((error, _, reply) => {
  const status = error.statusCode ?? 500
  if (status === 503) reply.header('retry-after', '1')
  const told = error instanceof Refused ? error.error : { code: code(error) }
  return reply.code(status).send({ success: false, message: error.message, error: told })
})

process.once('SIGTERM', async () => {
  await app.close()
  redis.disconnect()
})

await app.listen({ host: '127.0.0.1', port: Number(port) })
