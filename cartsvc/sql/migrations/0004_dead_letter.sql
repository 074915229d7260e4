-- A cart or a price change that PostgreSQL refused, with what else there was of it. `body` is JSON in
-- UTF-8, not text or jsonb: these can't hold every character; convert_from(body, 'UTF8') shows it. Ids
-- and versions are numeric, since a number that is out of range may be why the row was refused.
CREATE TABLE dead_letter (
    number       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant       text        NOT NULL,
    bucket       smallint    NOT NULL,
    kind         text        NOT NULL CHECK (kind IN ('cart', 'price')),
    cart_id      numeric     NOT NULL,
    version      numeric     NOT NULL,
    body         bytea       NOT NULL,
    reason       text        NOT NULL,
    set_aside_at timestamptz NOT NULL DEFAULT now()
);

-- Of a cart, the latest version; of prices, every change.
CREATE UNIQUE INDEX dead_letter_of_cart ON dead_letter (tenant, cart_id) WHERE kind = 'cart';
