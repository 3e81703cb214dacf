-- The content of legs: what the servers report, a row a record, each with the leg's revision that made it.
--
-- A group of columns that are all NULL is an explicit *unknown*. Enumerations hold the protocol's numbers
-- (protocol/SPEC.md), unknown ones included. Times are milliseconds since 1970 UTC. In texts U+E000 '0' stands
-- for NUL and U+E000 '1' for U+E000 (as on Postgres, which stores no NUL).

-- Meeting information: one row a leg.
CREATE TABLE meeting_info (
    meeting        text NOT NULL,
    leg            integer NOT NULL,
    domain         integer NOT NULL,
    revision       integer NOT NULL,
    number         text NOT NULL,
    title          text NOT NULL,
    creator        text NOT NULL,
    creator_name   text NOT NULL,
    chair          text NOT NULL,
    first_speaker  text NOT NULL,
    second_speaker text NOT NULL,
    started_at_ms  integer NOT NULL,
    format_version integer NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg)
) WITHOUT ROWID;

CREATE TABLE terminals (
    meeting                  text NOT NULL,
    leg                      integer NOT NULL,
    number                   text NOT NULL,
    domain                   integer NOT NULL,
    revision                 integer NOT NULL,
    home_domain              integer NOT NULL,
    name                     text NOT NULL,
    online                   integer NOT NULL,
    in_meeting               integer NOT NULL,
    joined_at_ms             integer NOT NULL,
    left_at_ms               integer NOT NULL,
    left_because             integer NOT NULL,
    business_state           integer,
    business_since_ms        integer,
    business_sends_main      integer,
    business_sends_auxiliary integer,
    business_resolution      integer,
    decode_display_mode      integer,
    decode_output            text,
    decode_codec             integer,
    extra_version            integer,
    format_version           integer NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg, number)
) WITHOUT ROWID;

CREATE TABLE windows (
    meeting        text NOT NULL,
    leg            integer NOT NULL,
    terminal       text NOT NULL,
    window_number  integer NOT NULL,
    domain         integer NOT NULL,
    revision       integer NOT NULL,
    source         text NOT NULL,
    channel        integer NOT NULL,
    video          integer NOT NULL,
    audio          integer NOT NULL,
    codec          integer NOT NULL,
    errors         integer NOT NULL,
    format_version integer NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg, terminal, window_number)
) WITHOUT ROWID;

CREATE TABLE entries (
    meeting        text NOT NULL,
    leg            integer NOT NULL,
    terminal       text NOT NULL,
    entry_key      text NOT NULL,
    domain         integer NOT NULL,
    revision       integer NOT NULL,
    entry_value    blob NOT NULL,
    format_version integer NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg, terminal, entry_key)
) WITHOUT ROWID;
