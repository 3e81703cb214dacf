-- Commands to servers, committed before they are sent. An intent is open while `code` is NULL.
CREATE TABLE intents (
    meeting        uuid NOT NULL,
    leg            integer NOT NULL,
    number         bigint NOT NULL,
    domain         bigint NOT NULL,
    -- The operation's name for people, and its encoding in the protocol.
    op_name        text NOT NULL,
    op             bytea NOT NULL,
    -- The client command that asked for it, if one did.
    instance       bigint,
    command_number bigint,
    code           integer,
    format_version smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg, number)
) WITH (fillfactor = 80);

CREATE INDEX intents_open ON intents (meeting, leg) WHERE code IS NULL;
CREATE INDEX intents_open_by_instance ON intents (instance) WHERE code IS NULL AND instance IS NOT NULL;
