-- Answers to clients' commands: a repeat gets the first answer. At most 256 an instance.
CREATE TABLE client_answers (
    instance       bigint NOT NULL,
    number         bigint NOT NULL,
    meeting        uuid NOT NULL,
    code           integer NOT NULL,
    detail         text NOT NULL,
    at_ms          bigint NOT NULL,
    format_version smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (instance, number)
);

-- Answers up to `pruned` are gone: their numbers are too old and never run.
CREATE TABLE client_instances (
    instance       bigint PRIMARY KEY,
    pruned         bigint NOT NULL DEFAULT 0,
    last_at_ms     bigint NOT NULL,
    format_version smallint NOT NULL DEFAULT 1
);

CREATE INDEX client_answers_by_age ON client_answers (at_ms);
