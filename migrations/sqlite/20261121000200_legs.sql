-- Meetings, their legs (the control rows) and recovery keys.
--
-- Numbers that a peer may choose freely (handles, times) are unsigned 64-bit values in a signed column:
-- above 2^63 they show as negative. `cause` is the protocol's EndCause: 0 none, 1 commanded, 2 by server,
-- 3 lost, 4 vanished, 5 operator.

CREATE TABLE meetings (
    meeting        text PRIMARY KEY,
    domain         integer NOT NULL,
    created_at     text NOT NULL DEFAULT CURRENT_TIMESTAMP,
    format_version integer NOT NULL DEFAULT 1
) WITHOUT ROWID;

CREATE TABLE legs (
    meeting        text NOT NULL,
    leg            integer NOT NULL,
    domain         integer NOT NULL,
    server         integer NOT NULL,
    -- created, starting, adopting, in-meeting, ending, ended
    state          text NOT NULL,
    cause          integer NOT NULL DEFAULT 0,
    epoch          integer NOT NULL DEFAULT 0,
    boot           text,
    handle         integer,
    table_revision integer NOT NULL DEFAULT 0,
    -- Up to where the content is stored: revision, present records, their digest.
    mark_revision  integer NOT NULL DEFAULT 0,
    mark_count     integer NOT NULL DEFAULT 0,
    mark_digest    blob NOT NULL DEFAULT x'00000000000000000000000000000000',
    -- Completion marks of the four back-fill groups: the revision up to which each is complete.
    info_mark      integer NOT NULL DEFAULT 0,
    business_mark  integer NOT NULL DEFAULT 0,
    decode_mark    integer NOT NULL DEFAULT 0,
    extra_mark     integer NOT NULL DEFAULT 0,
    -- The highest intent number committed.
    intent         integer NOT NULL DEFAULT 0,
    recover_first  integer NOT NULL DEFAULT 0,
    quarantine     text,
    -- What compare-and-set compares; raised by state changes and by settling an unknown commit.
    version        integer NOT NULL,
    -- The version that the last state change made: tells, after an unknown commit, which change stands.
    state_version  integer NOT NULL,
    ended          integer GENERATED ALWAYS AS (state = 'ended') STORED,
    format_version integer NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg)
) WITHOUT ROWID;

CREATE INDEX legs_live_by_server ON legs (server, meeting, leg) WHERE NOT ended;
CREATE INDEX legs_live ON legs (meeting, leg) WHERE NOT ended;

CREATE TABLE recovery_keys (
    meeting        text NOT NULL,
    leg            integer NOT NULL,
    domain         integer NOT NULL,
    server         integer NOT NULL,
    secret         blob NOT NULL,
    generation     integer NOT NULL,
    number         text NOT NULL,
    title          text NOT NULL,
    creator        text NOT NULL,
    creator_name   text NOT NULL,
    made_at_ms     integer NOT NULL,
    format_version integer NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg)
) WITHOUT ROWID;
