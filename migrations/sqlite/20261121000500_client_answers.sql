-- Answers to clients' commands: a repeat gets the first answer. At most 256 an instance.
CREATE TABLE client_answers (
    instance       integer NOT NULL,
    number         integer NOT NULL,
    meeting        text NOT NULL,
    code           integer NOT NULL,
    detail         text NOT NULL,
    at_ms          integer NOT NULL,
    format_version integer NOT NULL DEFAULT 1,
    PRIMARY KEY (instance, number)
) WITHOUT ROWID;

-- Answers up to `pruned` are gone: their numbers are too old and never run.
CREATE TABLE client_instances (
    instance       integer PRIMARY KEY,
    pruned         integer NOT NULL DEFAULT 0,
    last_at_ms     integer NOT NULL,
    format_version integer NOT NULL DEFAULT 1
) WITHOUT ROWID;

CREATE INDEX client_answers_by_age ON client_answers (at_ms);
