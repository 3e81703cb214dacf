-- Meetings, their legs (the control rows) and recovery keys.
--
-- Numbers that a peer may choose freely (handles, times) are unsigned 64-bit values in a signed column:
-- above 2^63 they show as negative. `cause` is the protocol's EndCause: 0 none, 1 commanded, 2 by server,
-- 3 lost, 4 vanished, 5 operator.

CREATE TABLE meetings (
    meeting        uuid PRIMARY KEY,
    domain         bigint NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    format_version smallint NOT NULL DEFAULT 1
);

CREATE TABLE legs (
    meeting        uuid NOT NULL,
    leg            integer NOT NULL,
    domain         bigint NOT NULL,
    server         bigint NOT NULL,
    -- created, starting, adopting, in-meeting, ending, ended
    state          text COLLATE "C" NOT NULL,
    cause          smallint NOT NULL DEFAULT 0,
    epoch          bigint NOT NULL DEFAULT 0,
    boot           uuid,
    handle         bigint,
    table_revision bigint NOT NULL DEFAULT 0,
    -- Up to where the content is stored: revision, present records, their digest.
    mark_revision  bigint NOT NULL DEFAULT 0,
    mark_count     bigint NOT NULL DEFAULT 0,
    mark_digest    bytea NOT NULL DEFAULT '\x00000000000000000000000000000000',
    -- Completion marks of the four back-fill groups: the revision up to which each is complete.
    info_mark      bigint NOT NULL DEFAULT 0,
    business_mark  bigint NOT NULL DEFAULT 0,
    decode_mark    bigint NOT NULL DEFAULT 0,
    extra_mark     bigint NOT NULL DEFAULT 0,
    -- The highest intent number committed.
    intent         bigint NOT NULL DEFAULT 0,
    recover_first  boolean NOT NULL DEFAULT false,
    quarantine     text,
    -- What compare-and-set compares; raised by state changes and by settling an unknown commit.
    version        bigint NOT NULL,
    -- The version that the last state change made: tells, after an unknown commit, which change stands.
    state_version  bigint NOT NULL,
    -- In an index's condition, so it must not be touched by the other changes of state (HOT updates).
    ended          boolean GENERATED ALWAYS AS (state = 'ended') STORED,
    format_version smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg)
) WITH (fillfactor = 45); -- room for HOT updates: a take-over rewrites every row once

CREATE INDEX legs_live_by_server ON legs (server, meeting, leg) WHERE NOT ended;
CREATE INDEX legs_live ON legs (meeting, leg) WHERE NOT ended;

CREATE TABLE recovery_keys (
    meeting        uuid NOT NULL,
    leg            integer NOT NULL,
    domain         bigint NOT NULL,
    server         bigint NOT NULL,
    secret         bytea NOT NULL,
    generation     bigint NOT NULL,
    number         text COLLATE "C" NOT NULL,
    title          text NOT NULL,
    creator        text COLLATE "C" NOT NULL,
    creator_name   text NOT NULL,
    made_at_ms     bigint NOT NULL,
    format_version smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (meeting, leg)
);
