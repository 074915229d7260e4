-- What operators did, and looked at: a row an act, begun before it and finished after it. `actor` is
-- who, as far as the way (`via`) can tell; `subject` a SKU, a cart's id, or nothing; `before` and
-- `after` what there was of it, in short. One that is still 'begun' was broken off, or goes on.
CREATE TABLE audit (
    number     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    tenant     text        NOT NULL,
    actor      text        NOT NULL,
    via        text        NOT NULL CHECK (via IN ('cli', 'http')),
    action     text        NOT NULL,
    subject    text        NOT NULL,
    before     jsonb,
    after      jsonb,
    outcome    text        NOT NULL DEFAULT 'begun',
    request_id text
);

CREATE INDEX audit_of_tenant ON audit (tenant, number);
