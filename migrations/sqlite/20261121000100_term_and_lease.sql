-- Who commands. Two rows, as on Postgres.

-- Changed only when a term begins. Every writing transaction checks it under the write lock (BEGIN IMMEDIATE).
CREATE TABLE term (
    only_row  integer PRIMARY KEY CHECK (only_row = 1),
    epoch     integer NOT NULL,
    holder    text NOT NULL,
    node      text NOT NULL,
    began_at  text NOT NULL DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID;

-- Changed at each renewal, by the database's clock.
CREATE TABLE lease (
    only_row   integer PRIMARY KEY CHECK (only_row = 1),
    expires_at text NOT NULL
) WITHOUT ROWID;
