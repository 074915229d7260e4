-- A bucket that has been opened, and how far its price stream is written to price_history.
CREATE TABLE buckets (
    tenant        text        NOT NULL,
    bucket        smallint    NOT NULL,
    opened_at     timestamptz NOT NULL DEFAULT now(),
    prices_offset text        NOT NULL DEFAULT '0-0',
    PRIMARY KEY (tenant, bucket)
);

CREATE TABLE products (
    tenant      text        NOT NULL,
    id          text        NOT NULL,
    name        text        NOT NULL,
    price_minor bigint      NOT NULL CHECK (price_minor >= 0),
    currency    text        NOT NULL,
    images      text[]      NOT NULL,
    active      boolean     NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id)
);

CREATE TABLE product_variants (
    tenant      text     NOT NULL,
    product_id  text     NOT NULL,
    id          text     NOT NULL,
    name        text     NOT NULL,
    price_minor bigint   NOT NULL CHECK (price_minor >= 0),
    position    smallint NOT NULL,
    PRIMARY KEY (tenant, product_id, id),
    FOREIGN KEY (tenant, product_id) REFERENCES products ON DELETE CASCADE
);

-- A counter for each SKU that has stock of its own; the units free at an instant are Redis's.
CREATE TABLE stock (
    tenant     text        NOT NULL,
    sku        text        NOT NULL,
    received   bigint      NOT NULL CHECK (received >= 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, sku)
);

CREATE TABLE carts (
    tenant     text        NOT NULL,
    id         bigint      NOT NULL,
    owner_kind text        NOT NULL,
    owner_id   text        NOT NULL,
    status     text        NOT NULL,
    version    bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    flushed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id)
);
CREATE INDEX carts_by_owner ON carts (tenant, owner_kind, owner_id);

-- Lines are only ever written in the transaction that writes their cart.
CREATE TABLE cart_items (
    tenant       text        NOT NULL,
    cart_id      bigint      NOT NULL,
    id           bigint      NOT NULL,
    product_id   text        NOT NULL,
    variant_id   text,
    quantity     integer     NOT NULL CHECK (quantity > 0),
    price_minor  bigint      NOT NULL,
    name         text        NOT NULL,
    variant_name text,
    image_url    text,
    added_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant, cart_id, id)
);

-- A row for each time that a cart line took another price.
CREATE TABLE price_history (
    tenant          text        NOT NULL,
    cart_id         bigint      NOT NULL,
    cart_item_id    bigint      NOT NULL,
    cart_version    bigint      NOT NULL,
    product_id      text        NOT NULL,
    variant_id      text,
    old_price_minor bigint      NOT NULL,
    new_price_minor bigint      NOT NULL,
    changed_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant, cart_item_id, cart_version)
);
