-- Who commands. Two rows, because a lease row that writers also lock starves its own renewal.

-- Changed only when a term begins. Every writing statement reads it FOR SHARE.
CREATE TABLE term (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch     bigint NOT NULL,
    holder    uuid NOT NULL,
    node      text NOT NULL,
    began_at  timestamptz NOT NULL DEFAULT now()
);

-- Changed at each renewal, by the database's clock.
CREATE TABLE lease (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    expires_at timestamptz NOT NULL
);
