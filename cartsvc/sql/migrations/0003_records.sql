-- What contract 004 shows of a line: when it was changed last, and a price that is its own; and all
-- the images that it was added with.
ALTER TABLE cart_items
    ADD COLUMN images      text[]      NOT NULL DEFAULT '{}',
    ADD COLUMN updated_at  timestamptz,
    ADD COLUMN fixed_price boolean     NOT NULL DEFAULT false;
UPDATE cart_items
SET updated_at = added_at, images = CASE WHEN image_url IS NULL THEN '{}' ELSE ARRAY[image_url] END;
ALTER TABLE cart_items
    ALTER COLUMN images DROP DEFAULT,
    ALTER COLUMN updated_at SET NOT NULL,
    ALTER COLUMN fixed_price DROP DEFAULT,
    DROP COLUMN image_url;

-- An event's own number, in the order in which events were written.
ALTER TABLE price_history ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY;
