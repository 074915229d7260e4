-- name: has_bucket
-- Whether a bucket is recorded.
-- $1 tenant, $2 bucket
SELECT EXISTS (SELECT FROM buckets WHERE tenant = $1 AND bucket = $2);

-- name: open_bucket
-- Record a bucket.
-- $1 tenant, $2 bucket
INSERT INTO buckets (tenant, bucket) VALUES ($1, $2)
ON CONFLICT DO NOTHING;

-- name: buckets
-- Every bucket there is.
SELECT tenant, bucket FROM buckets ORDER BY tenant, bucket;

-- name: await_bucket
-- Wait to be the only transaction that flushes the bucket.
-- $1 tenant, $2 bucket
SELECT pg_advisory_xact_lock(hashtextextended('cartsvc flush ' || $1::text, $2::bigint));

-- name: claim_bucket
-- Whether this transaction is now the only one that flushes the bucket; others get false.
-- $1 tenant, $2 bucket
SELECT pg_try_advisory_xact_lock(hashtextextended('cartsvc flush ' || $1::text, $2::bigint));

-- name: upsert_carts
-- Write carts that are newer than the row there is, unless that is closed: a Redis that came back
-- with an older state must not open it again. One that is closed counts as newer, since it closes once.
-- Returns the ids of those written, and whether there was no row before.
-- $1 tenant, then one array a column: $2 id, $3 owner_kind, $4 owner_id, $5 status, $6 version,
-- $7 created ms, $8 updated ms, $9 last_line
INSERT INTO carts (tenant, id, owner_kind, owner_id, status, version, created_at, updated_at,
                   last_line)
SELECT $1, id, owner_kind, owner_id, status, version,
       to_timestamp(created_ms::float8 / 1000), to_timestamp(updated_ms::float8 / 1000), last_line
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::integer[])
     AS row (id, owner_kind, owner_id, status, version, created_ms, updated_ms, last_line)
ORDER BY id
ON CONFLICT (tenant, id) DO UPDATE
SET owner_kind = excluded.owner_kind, owner_id = excluded.owner_id, status = excluded.status,
    version = greatest(excluded.version, carts.version + 1), updated_at = excluded.updated_at,
    last_line = excluded.last_line, flushed_at = now()
WHERE carts.status = 'ACTIVE'
      AND (carts.version < excluded.version OR excluded.status <> 'ACTIVE')
RETURNING id, xmax = 0 AS is_new;

-- name: active_rows
-- Version and time of the last change of those of some carts that are active.
-- $1 tenant, $2 ids
SELECT id, version, round(extract(epoch FROM updated_at) * 1000)::bigint AS updated_ms
FROM carts WHERE tenant = $1 AND id = ANY ($2::bigint[]) AND status = 'ACTIVE';

-- name: sell
-- Count the units of converted carts as sold; refused where more would be sold than was received.
-- $1 tenant, $2 ids of carts
WITH taken AS (SELECT sold_from AS sku, sum(quantity) AS units FROM cart_items
               WHERE tenant = $1 AND cart_id = ANY ($2::bigint[]) AND sold_from IS NOT NULL
               GROUP BY sold_from),
     locked AS (SELECT FROM stock WHERE tenant = $1 AND sku IN (SELECT sku FROM taken)
                ORDER BY sku FOR UPDATE)
UPDATE stock SET sold = sold + units
FROM taken WHERE tenant = $1 AND stock.sku = taken.sku AND (SELECT count(*) FROM locked) >= 0;

-- name: active_cart
-- Id of the owner's active cart.
-- $1 tenant, $2 owner_kind, $3 owner_id
SELECT id FROM carts
WHERE tenant = $1 AND owner_kind = $2 AND owner_id = $3 AND status = 'ACTIVE'
ORDER BY id DESC LIMIT 1;

-- name: carts_by_id
-- Carts as they were written last, but for those that are deleted; in the order of their ids.
-- $1 tenant, $2 ids
SELECT id, owner_kind, owner_id, status, version, last_line,
       extract(epoch FROM created_at) * 1000 AS created_ms,
       extract(epoch FROM updated_at) * 1000 AS updated_ms
FROM carts WHERE tenant = $1 AND id = ANY ($2::bigint[]) AND status <> 'DELETED'
ORDER BY id;

-- name: next_carts
-- Carts in the order of their ids, each with whether it is an active one of these kinds of owners, and
-- was changed last before a time.
-- $1 tenant, $2 id before the first, $3 how many, $4 owner kinds, $5 ms
SELECT id, status = 'ACTIVE' AND owner_kind = ANY ($4::text[])
           AND updated_at <= to_timestamp($5::bigint / 1000.0) AS is_idle
FROM carts WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: cart_status
-- A cart's status.
-- $1 tenant, $2 id
SELECT status FROM carts WHERE tenant = $1 AND id = $2;

-- name: lock_cart
-- Let nobody write a cart until the transaction ends.
-- $1 tenant, $2 id
SELECT FROM carts WHERE tenant = $1 AND id = $2 FOR UPDATE;

-- name: lines
-- The lines of carts, in the order in which they were added.
-- $1 tenant, $2 ids of the carts
SELECT cart_id, id, product_id, variant_id, quantity, price_minor, name, variant_name, images,
       saved, fixed_price, sold_from, extract(epoch FROM added_at) * 1000 AS added_ms,
       extract(epoch FROM updated_at) * 1000 AS updated_ms,
       extract(epoch FROM held_until) * 1000 AS held_until_ms
FROM cart_items WHERE tenant = $1 AND cart_id = ANY ($2::bigint[])
ORDER BY id;

-- name: cart_page
-- Ids of carts, all or an owner's, in their order.
-- $1 tenant, $2 owner_kind or NULL, $3 owner_id or NULL, $4 how many, $5 how many before them
SELECT id FROM carts
WHERE tenant = $1 AND status <> 'DELETED'
      AND ($2::text IS NULL OR owner_kind = $2 AND owner_id = $3)
ORDER BY id LIMIT $4 OFFSET $5;

-- name: cart_count
-- How many there are.
-- $1 tenant, $2 owner_kind or NULL, $3 owner_id or NULL
SELECT count(*) FROM carts
WHERE tenant = $1 AND status <> 'DELETED'
      AND ($2::text IS NULL OR owner_kind = $2 AND owner_id = $3);

-- name: item_page
-- Ids of the lines of carts, all or an owner's, in their order.
-- $1 tenant, $2 owner_kind or NULL, $3 owner_id or NULL, $4 how many, $5 how many before them
SELECT cart_items.id FROM cart_items JOIN carts
     ON carts.tenant = cart_items.tenant AND carts.id = cart_items.cart_id
WHERE cart_items.tenant = $1 AND status <> 'DELETED'
      AND ($2::text IS NULL OR owner_kind = $2 AND owner_id = $3)
ORDER BY cart_items.cart_id, cart_items.id LIMIT $4 OFFSET $5;

-- name: item_count
-- How many there are.
-- $1 tenant, $2 owner_kind or NULL, $3 owner_id or NULL
SELECT count(*) FROM cart_items JOIN carts
     ON carts.tenant = cart_items.tenant AND carts.id = cart_items.cart_id
WHERE cart_items.tenant = $1 AND status <> 'DELETED'
      AND ($2::text IS NULL OR owner_kind = $2 AND owner_id = $3);

-- name: delete_cart
-- Let a closed cart be there for nobody any more.
-- $1 tenant, $2 id
UPDATE carts SET status = 'DELETED', version = version + 1, updated_at = now(), flushed_at = now()
WHERE tenant = $1 AND id = $2 AND status IN ('ABANDONED', 'REMOVED');

-- name: price_history
-- The price changes of a line, the newest first.
-- $1 tenant, $2 item id
SELECT id, old_price_minor, new_price_minor, extract(epoch FROM changed_at) * 1000 AS changed_ms
FROM price_history WHERE tenant = $1 AND cart_item_id = $2
ORDER BY cart_version DESC;

-- name: delete_lines
-- Remove the lines that carts no longer have.
-- $1 tenant, $2 ids of the carts, $3 ids of all lines that they have now
DELETE FROM cart_items
WHERE tenant = $1 AND cart_id = ANY ($2::bigint[])
      AND id NOT IN (SELECT unnest($3::bigint[]));

-- name: upsert_lines
-- Write the lines of written carts; one that is there as it is now is left alone.
-- $1 tenant, $2 ids of the written carts, then in the same order $3 ids of the lines' carts, $4 the
-- lines' ids, $5 the lines as JSON
INSERT INTO cart_items (tenant, cart_id, id, product_id, variant_id, quantity, price_minor, name,
                        variant_name, images, added_at, updated_at, saved, held_until, fixed_price,
                        sold_from)
SELECT $1, cart_id, id, product_id, variant_id, quantity, price_minor, name, variant_name, images,
       to_timestamp(added_ms::float8 / 1000), to_timestamp(updated_ms::float8 / 1000), saved,
       to_timestamp(held_until_ms::float8 / 1000), fixed_price, sold_from
FROM ROWS FROM (
         unnest($3::bigint[], $4::bigint[]),
         json_to_recordset($5::json) AS (
             product_id text, variant_id text, quantity integer, price_minor bigint, name text,
             variant_name text, images text[], added_ms bigint, updated_ms bigint, saved boolean,
             held_until_ms bigint, fixed_price boolean, sold_from text))
     AS row (cart_id, id, product_id, variant_id, quantity, price_minor, name, variant_name,
             images, added_ms, updated_ms, saved, held_until_ms, fixed_price, sold_from)
WHERE cart_id IN (SELECT unnest($2::bigint[]))
ON CONFLICT (tenant, cart_id, id) DO UPDATE
SET quantity = excluded.quantity, price_minor = excluded.price_minor, saved = excluded.saved,
    held_until = excluded.held_until, updated_at = excluded.updated_at, name = excluded.name,
    images = excluded.images, fixed_price = excluded.fixed_price, sold_from = excluded.sold_from
WHERE (cart_items.quantity, cart_items.price_minor, cart_items.saved, cart_items.held_until,
       cart_items.updated_at, cart_items.name, cart_items.images, cart_items.fixed_price,
       cart_items.sold_from)
      IS DISTINCT FROM
      (excluded.quantity, excluded.price_minor, excluded.saved, excluded.held_until,
       excluded.updated_at, excluded.name, excluded.images, excluded.fixed_price,
       excluded.sold_from);

-- name: prices_offset
-- How far the bucket's price stream has been written; locks the row until the transaction ends.
-- $1 tenant, $2 bucket
SELECT prices_offset FROM buckets WHERE tenant = $1 AND bucket = $2 FOR UPDATE;

-- name: advance_prices
-- Move the offset of the bucket's price stream.
-- $1 tenant, $2 bucket, $3 id of the last entry written
UPDATE buckets SET prices_offset = $3 WHERE tenant = $1 AND bucket = $2;

-- name: insert_prices
-- Write price changes; one that is already there stays as it is.
-- $1 tenant, then one array a column: $2 cart_id, $3 cart_item_id, $4 cart_version, $5 product_id,
-- $6 variant_id, $7 old_price_minor, $8 new_price_minor, $9 changed ms
INSERT INTO price_history (tenant, cart_id, cart_item_id, cart_version, product_id, variant_id,
                           old_price_minor, new_price_minor, changed_at)
SELECT $1, cart_id, cart_item_id, cart_version, product_id, variant_id, old_price_minor,
       new_price_minor, to_timestamp(changed_ms / 1000.0)
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[],
            $8::bigint[], $9::bigint[])
     AS row (cart_id, cart_item_id, cart_version, product_id, variant_id, old_price_minor,
             new_price_minor, changed_ms)
ON CONFLICT DO NOTHING;

-- name: set_aside
-- Keep a row that was refused; of a cart in place of an earlier version. Returns its number, or no
-- row where the cart is there at this version or a later one.
-- $1 tenant, $2 bucket, $3 kind, $4 cart_id, $5 version, $6 body, $7 reason
INSERT INTO dead_letter (tenant, bucket, kind, cart_id, version, body, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant, cart_id) WHERE kind = 'cart' DO UPDATE
SET version = excluded.version, body = excluded.body, reason = excluded.reason, set_aside_at = now()
WHERE dead_letter.version < excluded.version
RETURNING number;

-- name: remove_outdated
-- Forget what was set aside of carts that have been written since, at that version or a later one.
-- $1 tenant, $2 ids of the carts
DELETE FROM dead_letter
WHERE tenant = $1 AND kind = 'cart' AND cart_id = ANY ($2::bigint[]::numeric[])
      AND version <= (SELECT version FROM carts
                      WHERE tenant = $1 AND id = ANY ($2::bigint[]) AND id = cart_id);

-- name: letters
-- What is set aside, all of it or a tenant's, without the rows themselves.
-- $1 tenant or NULL
SELECT number, tenant, bucket, kind, cart_id, version, reason,
       extract(epoch FROM set_aside_at) * 1000 AS set_aside_ms
FROM dead_letter WHERE $1::text IS NULL OR tenant = $1
ORDER BY number;

-- name: letter_counts
-- How many rows are set aside, by tenant.
SELECT tenant, count(*) AS letters FROM dead_letter GROUP BY tenant;

-- name: letter
-- One row that is set aside.
-- $1 number
SELECT kind, version, body FROM dead_letter WHERE number = $1;

-- name: remove_letter
-- Forget a row that was set aside, unless it is a later version by now.
-- $1 number, $2 version
DELETE FROM dead_letter WHERE number = $1 AND version = $2;

-- name: lock_catalogue
-- Wait to be the only one who changes the tenant's catalogue or stock, for as long as connected.
-- $1 tenant
SELECT pg_advisory_lock(hashtextextended('cartsvc catalogue ' || $1::text, 0));

-- name: upsert_products
-- Write catalogue records, new or known.
-- $1 tenant, $2 currency, then one array a column: $3 id, $4 name, $5 price_minor, $6 images as
-- JSON arrays, $7 active, $8 stock_policy, $9 hold_ttl_s, $10 max_per_buyer, $11 max_per_order,
-- $12 min_per_order, $13 sale starts ms, $14 sale ends ms
INSERT INTO products (tenant, currency, id, name, price_minor, images, active, stock_policy,
                      hold_ttl_s, max_per_buyer, max_per_order, min_per_order, sale_starts_at,
                      sale_ends_at)
SELECT $1, $2, id, name, price_minor,
       ARRAY(SELECT jsonb_array_elements_text(images::jsonb)), active, stock_policy, hold_ttl_s,
       max_per_buyer, max_per_order, min_per_order, to_timestamp(starts_ms / 1000.0),
       to_timestamp(ends_ms / 1000.0)
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::text[], $7::boolean[], $8::text[],
            $9::integer[], $10::integer[], $11::integer[], $12::integer[], $13::bigint[],
            $14::bigint[])
     AS row (id, name, price_minor, images, active, stock_policy, hold_ttl_s, max_per_buyer,
             max_per_order, min_per_order, starts_ms, ends_ms)
ORDER BY id
ON CONFLICT (tenant, id) DO UPDATE
SET name = excluded.name, price_minor = excluded.price_minor, currency = excluded.currency,
    images = excluded.images, active = excluded.active, stock_policy = excluded.stock_policy,
    hold_ttl_s = excluded.hold_ttl_s, max_per_buyer = excluded.max_per_buyer,
    max_per_order = excluded.max_per_order, min_per_order = excluded.min_per_order,
    sale_starts_at = excluded.sale_starts_at, sale_ends_at = excluded.sale_ends_at,
    updated_at = now();

-- name: delete_variants
-- Remove the variants of products that are about to be written anew.
-- $1 tenant, $2 ids of the products
DELETE FROM product_variants WHERE tenant = $1 AND product_id = ANY ($2::text[]);

-- name: insert_variants
-- Write the variants of products.
-- $1 tenant, then one array a column: $2 product_id, $3 id, $4 name, $5 price_minor, $6 position
INSERT INTO product_variants (tenant, product_id, id, name, price_minor, position)
SELECT $1, row.*
FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::smallint[])
     AS row (product_id, id, name, price_minor, position);

-- name: set_price
-- Change a product's price, which is not its variants'.
-- $1 tenant, $2 price_minor, $3 id
UPDATE products SET price_minor = $2, updated_at = now() WHERE tenant = $1 AND id = $3;

-- name: set_variant_price
-- Change the price of a variant of a product.
-- $1 tenant, $2 price_minor, $3 id of the product, $4 id
UPDATE product_variants SET price_minor = $2
WHERE tenant = $1 AND product_id = $3 AND id = $4;

-- name: insert_stock
-- Record the stock of counters that are new; known ones stay as they are.
-- $1 tenant, $2 skus, $3 units
INSERT INTO stock (tenant, sku, received)
SELECT $1, sku, units FROM unnest($2::text[], $3::bigint[]) AS row (sku, units)
ORDER BY sku
ON CONFLICT DO NOTHING;

-- name: counters
-- The recorded stock of those SKUs that have a counter of their own.
-- $1 tenant, $2 skus
SELECT sku, received FROM stock WHERE tenant = $1 AND sku = ANY ($2::text[]);

-- name: recorded_stock
-- The recorded stock of a counter.
-- $1 tenant, $2 sku
SELECT received FROM stock WHERE tenant = $1 AND sku = $2;

-- name: receive_stock
-- Add to what counters have received, in order, since a conversion locks some of them too.
-- $1 tenant, $2 skus, $3 units, $4 whether they are corrections
WITH row AS (SELECT sku, units FROM unnest($2::text[], $3::bigint[]) AS row (sku, units)),
     locked AS (SELECT FROM stock WHERE tenant = $1 AND sku IN (SELECT sku FROM row)
                ORDER BY sku FOR UPDATE)
UPDATE stock
SET received = received + units, adjusted = adjusted + CASE WHEN $4 THEN units ELSE 0 END,
    updated_at = now()
FROM row WHERE tenant = $1 AND stock.sku = row.sku AND (SELECT count(*) FROM locked) >= 0;

-- name: record_stock
-- Change what is recorded of counters; a difference is a correction.
-- $1 tenant, $2 skus, $3 units received
UPDATE stock
SET received = row.received, adjusted = adjusted + row.received - stock.received,
    updated_at = now()
FROM unnest($2::text[], $3::bigint[]) AS row (sku, received)
WHERE stock.tenant = $1 AND stock.sku = row.sku;

-- name: has_products
-- Whether the tenant has a catalogue.
-- $1 tenant
SELECT EXISTS (SELECT FROM products WHERE tenant = $1);

-- name: share_epoch
-- Let no epoch of the bucket begin until the transaction ends.
-- $1 tenant, $2 bucket
SELECT pg_advisory_xact_lock_shared(hashtextextended('cartsvc epoch ' || $1::text, $2::bigint));

-- name: epoch
-- How often the bucket was rebuilt in Redis.
-- $1 tenant, $2 bucket
SELECT epoch FROM buckets WHERE tenant = $1 AND bucket = $2;

-- name: await_epoch
-- Wait until nobody writes what was read before.
-- $1 tenant, $2 bucket
SELECT pg_advisory_xact_lock(hashtextextended('cartsvc epoch ' || $1::text, $2::bigint));

-- name: begin_epoch
-- Begin an epoch of the bucket; returns how far its price stream was written.
-- $1 tenant, $2 bucket
UPDATE buckets SET epoch = epoch + 1 WHERE tenant = $1 AND bucket = $2 RETURNING prices_offset;

-- name: next_products
-- Products in the order of their ids.
-- $1 tenant, $2 id before the first, $3 how many
SELECT id FROM products WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: products_by_id
-- Some products, with their variants, in order, as JSON.
-- $1 tenant, $2 ids
SELECT id, name, price_minor, images, active, stock_policy, hold_ttl_s, max_per_buyer,
       max_per_order, min_per_order, extract(epoch FROM sale_starts_at) * 1000 AS starts_ms,
       extract(epoch FROM sale_ends_at) * 1000 AS ends_ms,
       (SELECT coalesce(json_agg(json_build_object('id', id, 'name', name, 'price_minor', price_minor,
                                                   'stock', NULL) ORDER BY position), '[]')
        FROM product_variants AS variant
        WHERE variant.tenant = $1 AND variant.product_id = products.id)::text AS variants
FROM products WHERE tenant = $1 AND id = ANY ($2::text[]);

-- name: products_in_variants
-- Products of which active carts have variants.
-- $1 tenant
SELECT DISTINCT product_id FROM cart_items
     JOIN carts ON carts.tenant = cart_items.tenant AND carts.id = cart_id AND status = 'ACTIVE'
WHERE cart_items.tenant = $1 AND variant_id IS NOT NULL;

-- name: books
-- What every counter has received, and sold.
-- $1 tenant
SELECT sku, received, sold FROM stock WHERE tenant = $1;

-- name: orders_of_buyers
-- Units that buyers ordered of products that limit them, in the sale that is on.
-- $1 tenant
SELECT product_id, coalesce(extract(epoch FROM sale_starts_at) * 1000, 0)::bigint AS starts_ms,
       owner_kind, owner_id, sum(quantity)::bigint AS units
FROM products
     JOIN cart_items ON cart_items.tenant = products.tenant AND product_id = products.id
     JOIN carts ON carts.tenant = products.tenant AND carts.id = cart_id
WHERE products.tenant = $1 AND max_per_buyer IS NOT NULL AND status = 'CONVERTED' AND NOT saved
      AND (sale_starts_at IS NULL OR carts.updated_at >= sale_starts_at)
GROUP BY product_id, starts_ms, owner_kind, owner_id;

-- name: active_carts
-- Active carts in the order of their ids, and whether they held units at a time.
-- $1 tenant, $2 id before the first, $3 how many, $4 ms
SELECT id, owner_kind, owner_id,
       EXISTS (SELECT FROM cart_items WHERE tenant = $1 AND cart_id = carts.id
                                            AND held_until > to_timestamp($4::bigint / 1000.0)) AS holds
FROM carts WHERE tenant = $1 AND status = 'ACTIVE' AND id > $2 ORDER BY id LIMIT $3;

-- name: last_cart
-- The highest id that is known of a cart.
-- $1 tenant
SELECT greatest((SELECT max(id) FROM carts WHERE tenant = $1),
                (SELECT max(cart_id) FROM price_history WHERE tenant = $1));

-- name: later_prices
-- Of lines whose price has changed behind the version of their cart's row: the last change.
-- $1 tenant, $2 ids of the carts
SELECT DISTINCT ON (cart_item_id)
       carts.id AS cart_id, cart_item_id, cart_version AS version, new_price_minor AS price_minor
FROM carts
     JOIN price_history ON price_history.tenant = $1 AND cart_version > carts.version
          AND cart_item_id BETWEEN carts.id * 4096 AND carts.id * 4096 + 4095
WHERE carts.tenant = $1 AND carts.id = ANY($2::bigint[])
ORDER BY cart_item_id, cart_version DESC;

-- name: carts_set_aside
-- Carts that are set aside, and whose rows are active or not there.
-- $1 tenant
SELECT number, body FROM dead_letter
WHERE tenant = $1 AND kind = 'cart'
      AND NOT EXISTS (SELECT FROM carts WHERE carts.tenant = $1 AND id = cart_id
                                              AND status <> 'ACTIVE');

-- name: row_states
-- Owner, status and version of carts, and at which version they are set aside, if they are. One that is
-- set aside and has no row comes without a status.
-- $1 tenant, $2 ids
SELECT cart.id, owner_kind, owner_id, status, carts.version, dead_letter.version AS set_aside
FROM unnest($2::bigint[]) AS cart (id)
     LEFT JOIN carts ON carts.tenant = $1 AND carts.id = cart.id
     LEFT JOIN dead_letter ON dead_letter.tenant = $1 AND kind = 'cart' AND cart_id = cart.id
WHERE status IS NOT NULL OR dead_letter.version IS NOT NULL;

-- name: next_counters
-- Counters in the order of their SKUs.
-- $1 tenant, $2 SKU before the first, $3 how many
SELECT sku FROM stock WHERE tenant = $1 AND sku > $2 ORDER BY sku LIMIT $3;

-- name: books_of
-- What some counters have received, and sold.
-- $1 tenant, $2 skus
SELECT sku, received, sold FROM stock WHERE tenant = $1 AND sku = ANY ($2::text[]);

-- name: closed_rows
-- Those of some carts that are closed.
-- $1 tenant, $2 ids
SELECT id FROM carts WHERE tenant = $1 AND id = ANY ($2::bigint[]) AND status <> 'ACTIVE';

-- name: sold_otherwise
-- Counters that have sold other than what converted carts took from them.
-- $1 tenant
SELECT sku, coalesce(sold, 0) AS sold, coalesce(units, 0)::bigint AS units
FROM (SELECT sku, sold FROM stock WHERE tenant = $1) AS counter
     FULL JOIN (SELECT sold_from AS sku, sum(quantity) AS units FROM cart_items
                     JOIN carts ON carts.tenant = cart_items.tenant AND carts.id = cart_id
                WHERE cart_items.tenant = $1 AND status = 'CONVERTED' AND sold_from IS NOT NULL
                GROUP BY sold_from) AS taken USING (sku)
WHERE coalesce(sold, 0) <> coalesce(units, 0)
ORDER BY sku;

-- name: next_priced_lines
-- Ids of lines that have price changes, in their order.
-- $1 tenant, $2 id before the first, $3 how many
SELECT DISTINCT cart_item_id AS id FROM price_history
WHERE tenant = $1 AND cart_item_id > $2 ORDER BY cart_item_id LIMIT $3;

-- name: price_chain
-- The price changes of lines in their order, each with the line's price and its cart's version, as far as
-- these are written.
-- $1 tenant, $2 ids of the lines
SELECT cart_item_id AS id, cart_version, old_price_minor, new_price_minor, price_minor, version
FROM price_history AS event
     LEFT JOIN cart_items ON cart_items.tenant = $1 AND cart_items.cart_id = event.cart_id
                             AND cart_items.id = event.cart_item_id
     LEFT JOIN carts ON carts.tenant = $1 AND carts.id = event.cart_id
WHERE event.tenant = $1 AND cart_item_id = ANY ($2::bigint[])
ORDER BY cart_item_id, cart_version;

-- name: prices_set_aside
-- Price changes that are set aside.
-- $1 tenant
SELECT body FROM dead_letter WHERE tenant = $1 AND kind = 'price';

-- name: count_letters
-- How many rows are set aside.
-- $1 tenant
SELECT count(*) FROM dead_letter WHERE tenant = $1;

-- name: begin_act
-- Note that an operator begins an act; returns the row's number.
-- $1 tenant, $2 actor, $3 via, $4 action, $5 subject, $6 request_id or NULL
INSERT INTO audit (tenant, actor, via, action, subject, request_id)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING number;

-- name: note_before
-- Note how an act found what it is about.
-- $1 number, $2 before as JSON
UPDATE audit SET before = $2::jsonb WHERE number = $1;

-- name: finish_act
-- Note what came of an act.
-- $1 number, $2 after as JSON or NULL, $3 outcome
UPDATE audit SET after = $2::jsonb, outcome = $3 WHERE number = $1;

-- name: acts
-- What was done, the newest first, of all tenants or one.
-- $1 tenant or NULL, $2 how many
SELECT number, extract(epoch FROM at) * 1000 AS at_ms, tenant, actor, via, action, subject,
       before::text AS before, after::text AS after, outcome, request_id
FROM audit WHERE $1::text IS NULL OR tenant = $1
ORDER BY number DESC LIMIT $2;
