//! The writing statements. Each is one fenced statement for any number of rows: it takes its rows as arrays, checks
//! the term `FOR SHARE` in itself (rule 4) and returns counts only, so that a writer that does not read cannot hold
//! the term's lock by a large answer.

use super::columns::Columns;
use crate::store::records::Table;

/// One statement with its rows.
#[derive(Debug)]
pub(super) struct Step {
    /// What it does, for errors.
    pub(super) doing: &'static str,
    pub(super) sql: String,
    /// Its rows; more than one set only where it compares two.
    pub(super) columns: Vec<Columns>,
    /// The count that must come back, else the batch does not fit.
    pub(super) expected: Option<usize>,
}

/// A statement whose CTEs `ctes` may join `t`, which has a row only while the term `($1, $2)` stands. It answers
/// (rows of `t`, `count`, the backend's process id).
pub(super) fn fenced(ctes: &str, count: &str) -> String {
    format!(
        "WITH t AS MATERIALIZED (SELECT 1 FROM term WHERE epoch = $1 AND holder = $2 FOR SHARE){}{ctes} \
         SELECT (SELECT count(*) FROM t), {count}, pg_backend_pid()",
        if ctes.is_empty() { "" } else { ", " }
    )
}

const COUNT: &str = "(SELECT count(*) FROM w)";
/// The first parameter behind the token.
const FIRST: usize = 3;

fn step(doing: &'static str, names: &[&str], columns: Columns, expected: Option<usize>, ctes: &str) -> Step {
    let unnest = columns.unnest(FIRST, "u", names);
    Step { doing, sql: fenced(&ctes.replace("{u}", &unnest), COUNT), columns: vec![columns], expected }
}

/// Columns of [`new_legs`].
const NEW_LEG: [&str; 25] = [
    "meeting",
    "leg",
    "domain",
    "server",
    "state",
    "cause",
    "epoch",
    "boot",
    "handle",
    "table_revision",
    "mark_revision",
    "mark_count",
    "mark_digest",
    "intent",
    "recover_first",
    "quarantine",
    "version",
    "key_domain",
    "key_server",
    "secret",
    "generation",
    "number",
    "title",
    "creator",
    "creator_name",
];

/// New legs with their meetings and recovery keys.
pub(super) fn new_legs(columns: Columns) -> Step {
    let rows = columns.rows();
    let mut names = NEW_LEG.to_vec();
    names.push("made_at_ms");
    step(
        "storing new legs",
        &names,
        columns,
        Some(rows),
        "u AS MATERIALIZED (SELECT * FROM {u}), \
         m AS (INSERT INTO meetings (meeting, domain) SELECT DISTINCT ON (u.meeting) u.meeting, u.domain FROM u, t \
               ON CONFLICT DO NOTHING), \
         w AS (INSERT INTO legs (meeting, leg, domain, server, state, cause, epoch, boot, handle, table_revision, \
                 mark_revision, mark_count, mark_digest, info_mark, business_mark, decode_mark, extra_mark, \
                 intent, recover_first, quarantine, version, state_version) \
               SELECT u.meeting, u.leg, u.domain, u.server, u.state, u.cause, u.epoch, u.boot, u.handle, \
                 u.table_revision, u.mark_revision, u.mark_count, u.mark_digest, u.mark_revision, u.mark_revision, \
                 u.mark_revision, u.mark_revision, u.intent, u.recover_first, u.quarantine, u.version, u.version \
               FROM u, t ON CONFLICT DO NOTHING RETURNING 1), \
         k AS (INSERT INTO recovery_keys (meeting, leg, domain, server, secret, generation, number, title, creator, \
                 creator_name, made_at_ms) \
               SELECT u.meeting, u.leg, u.key_domain, u.key_server, u.secret, u.generation, u.number, u.title, \
                 u.creator, u.creator_name, u.made_at_ms FROM u, t ON CONFLICT DO NOTHING)",
    )
}

/// Compare-and-set of control rows. The marks, which few lose ([`no_marks`]), are not named: an update costs what it sets.
pub(super) fn states(columns: Columns) -> Step {
    let rows = columns.rows();
    let names = [
        "meeting",
        "leg",
        "expect_version",
        "expect_state",
        "state",
        "cause",
        "epoch",
        "boot",
        "handle",
        "table_revision",
    ];
    step(
        "storing states",
        &names,
        columns,
        Some(rows),
        "w AS (UPDATE legs l SET state = u.state, cause = u.cause, version = l.version + 1, \
                 state_version = l.version + 1, epoch = COALESCE(u.epoch, l.epoch), boot = COALESCE(u.boot, l.boot), \
                 handle = COALESCE(u.handle, l.handle), table_revision = COALESCE(u.table_revision, l.table_revision) \
               FROM {u}, t WHERE l.meeting = u.meeting AND l.leg = u.leg AND l.version = u.expect_version \
                 AND l.state = u.expect_state RETURNING 1)",
    )
}

/// Takes legs' marks away: the content belongs to an earlier life.
pub(super) fn no_marks(columns: Columns) -> Step {
    step(
        "resetting marks",
        &["meeting", "leg"],
        columns,
        None,
        "w AS (UPDATE legs l SET mark_revision = 0, mark_count = 0, \
                 mark_digest = '\\x00000000000000000000000000000000', info_mark = 0, business_mark = 0, \
                 decode_mark = 0, extra_mark = 0 \
               FROM {u}, t WHERE l.meeting = u.meeting AND l.leg = u.leg RETURNING 1)",
    )
}

/// Sets the revision of every record of legs to 0: the content belongs to an earlier life.
pub(super) fn reset(table: Table, columns: Columns) -> Step {
    let ctes = format!(
        "w AS (UPDATE {} x SET revision = 0 FROM {{u}}, t \
               WHERE x.meeting = u.meeting AND x.leg = u.leg AND x.revision <> 0 RETURNING 1)",
        table.name()
    );
    step("resetting content", &["meeting", "leg"], columns, None, &ctes)
}

/// Whether legs exist.
pub(super) fn exist(columns: Columns) -> Step {
    let rows = columns.rows();
    let ctes = "w AS (SELECT 1 FROM {u} JOIN legs l ON l.meeting = u.meeting AND l.leg = u.leg)";
    step("looking for legs", &["meeting", "leg"], columns, Some(rows), ctes)
}

/// Recovery keys of a higher generation. The same key again fits and is not written.
pub(super) fn keys(columns: Columns) -> Step {
    let rows = columns.rows();
    let names = [
        "meeting",
        "leg",
        "domain",
        "server",
        "secret",
        "generation",
        "number",
        "title",
        "creator",
        "creator_name",
        "made_at_ms",
    ];
    let all = names.join(", ");
    let set = names[2..].iter().map(|name| format!("{name} = excluded.{name}")).collect::<Vec<_>>().join(", ");
    let unnest = columns.unnest(FIRST, "u", &names);
    let ctes = format!(
        "u AS MATERIALIZED (SELECT * FROM {unnest}), \
         w AS (INSERT INTO recovery_keys AS k ({all}) SELECT u.* FROM u, t ON CONFLICT (meeting, leg) \
               DO UPDATE SET {set} WHERE k.generation < excluded.generation RETURNING 1)"
    );
    let count = "(SELECT count(*) FROM w) + (SELECT count(*) FROM u JOIN recovery_keys k \
                 ON k.meeting = u.meeting AND k.leg = u.leg AND k.generation = u.generation AND k.secret = u.secret)";
    Step { doing: "storing recovery keys", sql: fenced(&ctes, count), columns: vec![columns], expected: Some(rows) }
}

/// New intents; raises their legs' highest number.
pub(super) fn intents(columns: Columns) -> Step {
    let rows = columns.rows();
    step(
        "storing intents",
        &["meeting", "leg", "number", "op_name", "op", "instance", "command_number"],
        columns,
        Some(rows),
        "u AS MATERIALIZED (SELECT * FROM {u}), \
         w AS (INSERT INTO intents (meeting, leg, number, domain, op_name, op, instance, command_number) \
               SELECT u.meeting, u.leg, u.number, l.domain, u.op_name, u.op, u.instance, u.command_number \
               FROM u JOIN legs l ON l.meeting = u.meeting AND l.leg = u.leg AND u.number > l.intents_pruned, t \
               ON CONFLICT DO NOTHING RETURNING 1), \
         r AS (UPDATE legs l SET intent = g.top \
               FROM (SELECT meeting, leg, max(number) AS top FROM u GROUP BY meeting, leg) g, t \
               WHERE l.meeting = g.meeting AND l.leg = g.leg AND l.intent < g.top)",
    )
}

/// Intents that are no longer open. That they are open is asked in a way that keeps the planner from the index of open
/// ones: it holds the remains of every intent that was done since the last vacuum. No code is below zero.
pub(super) fn intents_done(columns: Columns) -> Step {
    step(
        "storing results",
        &["meeting", "leg", "number", "code"],
        columns,
        None,
        "w AS (UPDATE intents i SET code = u.code, done_at_ms = (extract(epoch FROM now()) * 1000)::int8 FROM {u}, t \
               WHERE i.meeting = u.meeting AND i.leg = u.leg AND i.number = u.number \
                 AND COALESCE(i.code, -1) = -1 RETURNING 1)",
    )
}

fn same_key(table: Table, other: &str) -> String {
    let key = ["meeting", "leg"].iter().chain(table.key());
    key.map(|name| format!("x.{name} = {other}.{name}")).collect::<Vec<_>>().join(" AND ")
}

fn key_columns(table: Table) -> Vec<&'static str> {
    ["meeting", "leg"].into_iter().chain(table.key().iter().copied()).collect()
}

/// Records: over a lower revision, or, with `full`, over an equal one that differs. That their legs exist is asked before:
/// a look-up with every row was a sixth of what the row took.
pub(super) fn records(table: Table, full: bool, columns: Columns) -> Step {
    let key = key_columns(table);
    let rest: Vec<&str> = ["revision", "format_version"].into_iter().chain(table.fields().iter().copied()).collect();
    let names: Vec<&str> = key.iter().chain(&rest).copied().chain(["domain"]).collect();
    let list = |prefix: &str, of: &[&str]| of.iter().map(|n| format!("{prefix}{n}")).collect::<Vec<_>>().join(", ");
    let set = rest.iter().map(|name| format!("{name} = excluded.{name}")).collect::<Vec<_>>().join(", ");
    let equal = if full {
        let (stands, comes) = (list("x.", &rest), list("excluded.", &rest));
        format!(" OR x.revision = excluded.revision AND ({stands}) IS DISTINCT FROM ({comes})")
    } else {
        String::new()
    };
    let ctes = format!(
        "i AS (INSERT INTO {name} AS x ({all}) SELECT u.* FROM {unnest}, t \
               ON CONFLICT ({conflict}) DO UPDATE SET {set} WHERE x.revision < excluded.revision{equal})",
        name = table.name(),
        all = names.join(", "),
        unnest = columns.unnest(FIRST, "u", &names),
        conflict = key.join(", "),
    );
    Step { doing: "storing records", sql: fenced(&ctes, "0::int8"), columns: vec![columns], expected: None }
}

/// Removals: of a lower revision, or, with `full`, of an equal one.
pub(super) fn removals(table: Table, full: bool, columns: Columns) -> Step {
    let mut names = key_columns(table);
    names.push("revision");
    let ctes = format!(
        "w AS (DELETE FROM {} x USING {{u}}, t WHERE {} AND x.revision {} u.revision RETURNING 1)",
        table.name(),
        same_key(table, "u"),
        if full { "<=" } else { "<" }
    );
    step("removing records", &names, columns, None, &ctes)
}

/// After full pulls: what is stored at or below their marks' revisions and is not among their records. `legs` are
/// (meeting, leg, revision), `kept` the records' keys.
pub(super) fn lacking(table: Table, legs: Columns, kept: Columns) -> Step {
    let legs_sql = legs.unnest(FIRST, "f", &["meeting", "leg", "revision"]);
    let not_kept = if kept.is_empty() {
        String::new()
    } else {
        let kept_sql = kept.unnest(FIRST + 3, "k", &key_columns(table));
        format!(" AND NOT EXISTS (SELECT 1 FROM {kept_sql} WHERE {})", same_key(table, "k"))
    };
    let ctes = format!(
        "w AS (DELETE FROM {} x USING {legs_sql}, t WHERE x.meeting = f.meeting AND x.leg = f.leg \
               AND x.revision <= f.revision{not_kept} RETURNING 1)",
        table.name()
    );
    Step {
        doing: "removing what a full pull lacks",
        sql: fenced(&ctes, COUNT),
        columns: vec![legs, kept],
        expected: None,
    }
}

/// Marks with all four groups: only upwards, from what they follow on; or, after a full pull, another content at the same
/// revision.
pub(super) fn marks(columns: Columns) -> Step {
    step(
        "storing marks",
        &["meeting", "leg", "revision", "count", "digest", "base", "is_full"],
        columns,
        None,
        "w AS (UPDATE legs l SET mark_revision = u.revision, mark_count = u.count, mark_digest = u.digest, \
                 info_mark = u.revision, business_mark = u.revision, decode_mark = u.revision, \
                 extra_mark = u.revision \
               FROM {u}, t WHERE l.meeting = u.meeting AND l.leg = u.leg AND l.mark_revision >= u.base \
                 AND (l.mark_revision < u.revision \
                 OR u.is_full AND l.mark_revision = u.revision \
                    AND (l.mark_count, l.mark_digest) IS DISTINCT FROM (u.count, u.digest)) RETURNING 1)",
    )
}

/// Quarantine of back-fill.
pub(super) fn quarantines(columns: Columns) -> Step {
    step(
        "storing quarantine",
        &["meeting", "leg", "quarantine"],
        columns,
        None,
        "w AS (UPDATE legs l SET quarantine = u.quarantine FROM {u}, t \
               WHERE l.meeting = u.meeting AND l.leg = u.leg AND l.quarantine IS DISTINCT FROM u.quarantine \
               RETURNING 1)",
    )
}

/// Operators' marks.
pub(super) fn firsts(columns: Columns) -> Step {
    step(
        "storing operators' marks",
        &["meeting", "leg", "recover_first"],
        columns,
        None,
        "w AS (UPDATE legs l SET recover_first = u.recover_first FROM {u}, t \
               WHERE l.meeting = u.meeting AND l.leg = u.leg AND l.recover_first <> u.recover_first RETURNING 1)",
    )
}

/// How stale an instance's time of use may be, in milliseconds: it only decides which instances are the least recent of
/// 10,000, and writing it with every answer would make one row of it that all writers wait for.
const LAST_AT_STALE_MS: u32 = 60_000;

/// Clients' answers; one that was pruned is not kept again. The instances' rows are shared by all writers, whatever
/// their legs: what another transaction holds is left to it, nobody waits.
pub(super) fn answers(columns: Columns) -> Step {
    let ctes = format!(
        "w AS (INSERT INTO client_answers (instance, number, meeting, code, detail, at_ms) \
               SELECT u.instance, u.number, u.meeting, u.code, u.detail, u.at_ms \
               FROM {{u}}, t WHERE u.number > COALESCE((SELECT i.pruned FROM client_instances i \
                 WHERE i.instance = u.instance), 0) ON CONFLICT DO NOTHING RETURNING instance, at_ms), \
         g AS MATERIALIZED (SELECT w.instance, max(w.at_ms) AS at_ms FROM w GROUP BY w.instance ORDER BY w.instance), \
         n AS (INSERT INTO client_instances (instance, last_at_ms) SELECT g.instance, g.at_ms FROM g \
               WHERE NOT EXISTS (SELECT 1 FROM client_instances i WHERE i.instance = g.instance) \
               ON CONFLICT DO NOTHING), \
         k AS MATERIALIZED (SELECT g.instance, g.at_ms FROM g CROSS JOIN LATERAL \
               (SELECT 1 FROM client_instances i WHERE i.instance = g.instance \
                AND i.last_at_ms < g.at_ms - {LAST_AT_STALE_MS} FOR NO KEY UPDATE SKIP LOCKED) i), \
         i AS (UPDATE client_instances i SET last_at_ms = GREATEST(i.last_at_ms, k.at_ms) FROM k \
               WHERE i.instance = k.instance)"
    );
    let names = ["instance", "number", "meeting", "code", "detail", "at_ms"];
    step("storing clients' answers", &names, columns, None, &ctes)
}

/// Prunes instances to the most answers that are kept; what is too many is not read until then. An instance that
/// another transaction is pruning is left to it. Only numbers above the watermark are looked at: below it are the
/// remains of what was deleted, and passing over them all cost more than everything else in a batch.
pub(super) fn prune_instances(columns: Columns) -> Step {
    let ctes = format!(
        "i AS MATERIALIZED (SELECT i.instance, i.pruned FROM {{u}} CROSS JOIN LATERAL \
               (SELECT c.instance, c.pruned FROM client_instances c WHERE c.instance = u.instance \
                FOR NO KEY UPDATE SKIP LOCKED) i, t), \
         x AS MATERIALIZED (SELECT i.instance, i.pruned, (SELECT c.number FROM client_answers c \
               WHERE c.instance = i.instance AND c.number > i.pruned ORDER BY c.number DESC OFFSET {} LIMIT 1) AS top \
               FROM i), \
         w AS (DELETE FROM client_answers a USING x WHERE a.instance = x.instance AND a.number > x.pruned \
               AND a.number <= x.top RETURNING a.instance, a.number), \
         p AS (UPDATE client_instances i SET pruned = GREATEST(i.pruned, g.top) \
               FROM (SELECT instance, max(number) AS top FROM w GROUP BY instance) g WHERE i.instance = g.instance)",
        crate::store::ANSWERS_KEPT
    );
    step("pruning clients' answers", &["instance"], columns, None, &ctes)
}
