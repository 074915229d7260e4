-- The books of a counter: `received` is all that came in, corrections included, which `adjusted` adds
-- up; `sold` is what converted carts took, and never more.
ALTER TABLE stock
    ADD COLUMN sold     bigint NOT NULL DEFAULT 0,
    ADD COLUMN adjusted bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT stock_not_oversold CHECK (sold BETWEEN 0 AND received);

-- The counter that the units of a converted cart's line were taken from.
ALTER TABLE cart_items ADD COLUMN sold_from text;

-- Carts that were converted before: as the catalogue has it now.
UPDATE cart_items AS line SET sold_from = stock.sku
FROM carts, products, stock
WHERE carts.tenant = line.tenant AND carts.id = line.cart_id AND carts.status = 'CONVERTED'
      AND products.tenant = line.tenant AND products.id = line.product_id
      AND products.stock_policy IS DISTINCT FROM 'untracked'
      AND stock.tenant = line.tenant
      AND stock.sku = (SELECT sku FROM stock AS own
                       WHERE own.tenant = line.tenant
                             AND own.sku IN (line.product_id || '/' || line.variant_id, line.product_id)
                       ORDER BY length(sku) DESC LIMIT 1);
UPDATE stock SET sold = least(received, taken.units)
FROM (SELECT tenant, sold_from AS sku, sum(quantity) AS units FROM cart_items
      WHERE sold_from IS NOT NULL GROUP BY tenant, sold_from) AS taken
WHERE stock.tenant = taken.tenant AND stock.sku = taken.sku;

-- Counts how often Redis was rebuilt: what was read from it before is not written any more.
ALTER TABLE buckets ADD COLUMN epoch bigint NOT NULL DEFAULT 0;
