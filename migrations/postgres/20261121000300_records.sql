-- The content of legs: what the servers report, a row a record, each with the leg's revision that made it.
--
-- A group of columns that are all NULL is an explicit *unknown*. Enumerations hold the protocol's numbers
-- (protocol/SPEC.md), unknown ones included. Times are milliseconds since 1970 UTC. In texts U+E000 '0' stands
-- for NUL and U+E000 '1' for U+E000 (Postgres stores no NUL).

-- Meeting information: one row a leg.
CREATE TABLE meeting_info (
    meeting        uuid NOT NULL,
    leg            integer NOT NULL,
    domain         bigint NOT NULL,
    revision       bigint NOT NULL,
    number         text COLLATE "C" NOT NULL,
    title          text NOT NULL,
    creator        text COLLATE "C" NOT NULL,
    creator_name   text NOT NULL,
    chair          text COLLATE "C" NOT NULL,
    first_speaker  text COLLATE "C" NOT NULL,
    second_speaker text COLLATE "C" NOT NULL,
    started_at_ms  bigint NOT NULL,
    format_version smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg)
) WITH (fillfactor = 70);

CREATE TABLE terminals (
    meeting                  uuid NOT NULL,
    leg                      integer NOT NULL,
    number                   text COLLATE "C" NOT NULL,
    domain                   bigint NOT NULL,
    revision                 bigint NOT NULL,
    home_domain              bigint NOT NULL,
    name                     text NOT NULL,
    online                   boolean NOT NULL,
    in_meeting               boolean NOT NULL,
    joined_at_ms             bigint NOT NULL,
    left_at_ms               bigint NOT NULL,
    left_because             smallint NOT NULL,
    business_state           smallint,
    business_since_ms        bigint,
    business_sends_main      boolean,
    business_sends_auxiliary boolean,
    business_resolution      smallint,
    decode_display_mode      smallint,
    decode_output            text COLLATE "C",
    decode_codec             smallint,
    extra_version            bigint,
    format_version           smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg, number)
) WITH (fillfactor = 45); -- back-fill rewrites many of them at once: HOT needs the room

CREATE TABLE windows (
    meeting        uuid NOT NULL,
    leg            integer NOT NULL,
    terminal       text COLLATE "C" NOT NULL,
    window_number  smallint NOT NULL,
    domain         bigint NOT NULL,
    revision       bigint NOT NULL,
    source         text COLLATE "C" NOT NULL,
    channel        smallint NOT NULL,
    video          boolean NOT NULL,
    audio          boolean NOT NULL,
    codec          smallint NOT NULL,
    errors         bigint NOT NULL,
    format_version smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg, terminal, window_number)
) WITH (fillfactor = 70);

CREATE TABLE entries (
    meeting        uuid NOT NULL,
    leg            integer NOT NULL,
    terminal       text COLLATE "C" NOT NULL,
    entry_key      text COLLATE "C" NOT NULL,
    domain         bigint NOT NULL,
    revision       bigint NOT NULL,
    entry_value    bytea NOT NULL,
    format_version smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg, terminal, entry_key)
) WITH (fillfactor = 70);
