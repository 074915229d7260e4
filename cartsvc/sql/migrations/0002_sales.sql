-- How a product's stock is treated and what limits its sale; NULL where the product says nothing.
ALTER TABLE products
    ADD COLUMN stock_policy   text,
    ADD COLUMN hold_ttl_s     integer,
    ADD COLUMN max_per_buyer  integer,
    ADD COLUMN max_per_order  integer,
    ADD COLUMN min_per_order  integer,
    ADD COLUMN sale_starts_at timestamptz,
    ADD COLUMN sale_ends_at   timestamptz;

-- The highest line number that the cart has given: none is given twice, also not after a restore.
ALTER TABLE carts ADD COLUMN last_line integer NOT NULL DEFAULT 0;
UPDATE carts SET last_line = coalesce(
    (SELECT max(id & 4095) FROM cart_items WHERE tenant = carts.tenant AND cart_id = carts.id), 0);
ALTER TABLE carts ALTER COLUMN last_line DROP DEFAULT;

ALTER TABLE cart_items
    ADD COLUMN saved      boolean     NOT NULL DEFAULT false,
    ADD COLUMN held_until timestamptz;
ALTER TABLE cart_items ALTER COLUMN saved DROP DEFAULT;
