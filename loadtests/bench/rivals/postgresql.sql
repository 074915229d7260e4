-- The rival's own tables; products and stock are copied from the catalogue of its tenant.
CREATE SCHEMA IF NOT EXISTS rival;

CREATE TABLE IF NOT EXISTS rival.products (
    id          text    PRIMARY KEY,
    name        text    NOT NULL,
    price_minor bigint  NOT NULL,
    active      boolean NOT NULL,
    free        bigint  NOT NULL
);

CREATE TABLE IF NOT EXISTS rival.carts (
    session_id text        PRIMARY KEY,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS rival.cart_lines (
    session_id text     NOT NULL,
    product_id text     NOT NULL,
    line       smallint NOT NULL,
    quantity   integer  NOT NULL,
    PRIMARY KEY (session_id, product_id)
);

INSERT INTO rival.products
SELECT p.id, p.name, p.price_minor, p.active, s.received
FROM products p JOIN stock s ON s.tenant = p.tenant AND s.sku = p.id
WHERE p.tenant = 'postgresql'
ON CONFLICT (id) DO NOTHING;
