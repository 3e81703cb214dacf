-- Commands to servers, committed before they are sent. An intent is open while `code` is NULL.
CREATE TABLE intents (
    meeting        text NOT NULL,
    leg            integer NOT NULL,
    number         integer NOT NULL,
    domain         integer NOT NULL,
    -- The operation's name for people, and its encoding in the protocol.
    op_name        text NOT NULL,
    op             blob NOT NULL,
    -- The client command that asked for it, if one did.
    instance       integer,
    command_number integer,
    code           integer,
    format_version integer NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg, number)
) WITHOUT ROWID;

CREATE INDEX intents_open ON intents (meeting, leg) WHERE code IS NULL;
CREATE INDEX intents_open_by_instance ON intents (instance) WHERE code IS NULL AND instance IS NOT NULL;
