//! The writing statements, made once. Parameters are in the order of `values.rs` and `records.rs`; the term is checked
//! by the transaction that carries them out, under the write lock.

use super::arguments::Sql;
use crate::store::records::Table;
use std::sync::LazyLock;

macro_rules! statement {
    ($(#[$doc:meta])* $name:ident = $sql:expr) => {
        $(#[$doc])*
        pub(super) static $name: LazyLock<Sql> = LazyLock::new(|| $sql.into());
    };
}

statement! {
    /// Whether a leg exists: writes nothing, counts by being answered.
    LEG_VERSION = "SELECT version FROM legs WHERE meeting = ?1 AND leg = ?2"
}
statement! {
    NEW_LEG = "INSERT INTO legs (meeting, leg, domain, server, state, cause, epoch, boot, handle, table_revision, \
        mark_revision, mark_count, mark_digest, info_mark, business_mark, decode_mark, extra_mark, intent, \
        recover_first, quarantine, version, state_version) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?11, ?11, ?11, ?11, ?14, ?15, ?16, ?17, ?17) \
        ON CONFLICT DO NOTHING"
}
statement! {
    NEW_MEETING = "INSERT INTO meetings (meeting, domain) VALUES (?1, ?3) ON CONFLICT DO NOTHING"
}
statement! {
    NEW_KEY = "INSERT INTO recovery_keys (meeting, leg, domain, server, secret, generation, number, title, creator, \
        creator_name, made_at_ms) VALUES (?1, ?2, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26) ON CONFLICT DO NOTHING"
}
statement! {
    STATE = "UPDATE legs SET state = ?5, cause = ?6, version = version + 1, state_version = version + 1, \
        epoch = COALESCE(?7, epoch), boot = COALESCE(?8, boot), handle = COALESCE(?9, handle), \
        table_revision = COALESCE(?10, table_revision) \
        WHERE meeting = ?1 AND leg = ?2 AND version = ?3 AND state = ?4"
}
statement! {
    /// The content is another one's.
    NO_MARK = "UPDATE legs SET mark_revision = 0, mark_count = 0, mark_digest = x'00000000000000000000000000000000', \
        info_mark = 0, business_mark = 0, decode_mark = 0, extra_mark = 0 WHERE meeting = ?1 AND leg = ?2"
}
statement! {
    /// A higher generation.
    KEY = "INSERT INTO recovery_keys AS k (meeting, leg, domain, server, secret, generation, number, title, creator, \
        creator_name, made_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (meeting, leg) \
        DO UPDATE SET domain = excluded.domain, server = excluded.server, secret = excluded.secret, \
        generation = excluded.generation, number = excluded.number, title = excluded.title, \
        creator = excluded.creator, creator_name = excluded.creator_name, made_at_ms = excluded.made_at_ms \
        WHERE k.generation < excluded.generation"
}
statement! {
    /// The same key stands already.
    SAME_KEY = "SELECT 1 FROM recovery_keys WHERE meeting = ?1 AND leg = ?2 AND generation = ?6 AND secret = ?5"
}
statement! {
    INTENT = "INSERT INTO intents (meeting, leg, number, domain, op_name, op, instance, command_number) \
        SELECT ?1, ?2, ?3, l.domain, ?4, ?5, ?6, ?7 FROM legs l WHERE l.meeting = ?1 AND l.leg = ?2 \
        AND ?3 > l.intents_pruned ON CONFLICT DO NOTHING"
}
statement! {
    INTENT_TOP = "UPDATE legs SET intent = ?3 WHERE meeting = ?1 AND leg = ?2 AND intent < ?3"
}
statement! {
    INTENT_DONE = "UPDATE intents SET code = ?4, done_at_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) \
        WHERE meeting = ?1 AND leg = ?2 AND number = ?3 AND code IS NULL"
}
statement! {
    MARK = "UPDATE legs SET mark_revision = ?3, mark_count = ?4, mark_digest = ?5, info_mark = ?3, \
        business_mark = ?3, decode_mark = ?3, extra_mark = ?3 WHERE meeting = ?1 AND leg = ?2 \
        AND mark_revision >= ?6 \
        AND (mark_revision < ?3 OR ?7 AND mark_revision = ?3 AND (mark_count, mark_digest) IS NOT (?4, ?5))"
}
statement! {
    QUARANTINE = "UPDATE legs SET quarantine = ?3 WHERE meeting = ?1 AND leg = ?2 AND quarantine IS NOT ?3"
}
statement! {
    RECOVER_FIRST = "UPDATE legs SET recover_first = ?3 WHERE meeting = ?1 AND leg = ?2 AND recover_first <> ?3"
}
statement! {
    ANSWER = "INSERT INTO client_answers (instance, number, meeting, code, detail, at_ms) \
        SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?2 > COALESCE((SELECT pruned FROM client_instances WHERE instance = ?1), 0) \
        ON CONFLICT DO NOTHING"
}
statement! {
    ANSWER_INSTANCE = "INSERT INTO client_instances (instance, last_at_ms) VALUES (?1, ?6) ON CONFLICT (instance) \
        DO UPDATE SET last_at_ms = max(last_at_ms, excluded.last_at_ms)"
}
statement! {
    /// Raises the watermark over what [`PRUNE`] deletes next.
    PRUNED = format!(
        "UPDATE client_instances SET pruned = max(pruned, COALESCE((SELECT number FROM client_answers \
         WHERE instance = ?1 ORDER BY number DESC LIMIT 1 OFFSET {}), 0)) WHERE instance = ?1",
        crate::store::ANSWERS_KEPT
    )
}
statement! {
    PRUNE = "DELETE FROM client_answers WHERE instance = ?1 \
        AND number <= (SELECT pruned FROM client_instances WHERE instance = ?1)"
}
statement! {
    RAISE = "UPDATE legs SET version = version + ?3 WHERE meeting = ?1 AND leg = ?2"
}

/// The statements of one table of records.
pub(super) struct OfTable {
    /// Over a lower revision.
    pub(super) put: Sql,
    /// Over a lower revision, or an equal one that differs: a full pull.
    pub(super) put_full: Sql,
    /// Of a lower revision.
    pub(super) remove: Sql,
    /// Of a lower or equal revision: a full pull.
    pub(super) remove_full: Sql,
    /// The keys of records at or below a revision.
    pub(super) keys: Sql,
    /// Sets revisions to 0.
    pub(super) reset: Sql,
}

static TABLES: LazyLock<[OfTable; 4]> = LazyLock::new(|| Table::ALL.map(of_table));

impl Table {
    pub(super) fn statements(self) -> &'static OfTable {
        &TABLES[self as usize]
    }
}

fn of_table(table: Table) -> OfTable {
    let name = table.name();
    let key: Vec<&str> = ["meeting", "leg"].into_iter().chain(table.key().iter().copied()).collect();
    let rest: Vec<&str> = ["revision", "format_version"].into_iter().chain(table.fields().iter().copied()).collect();
    let all: Vec<&str> = key.iter().chain(&rest).copied().chain(["domain"]).collect();
    let list = |prefix: &str, of: &[&str]| of.iter().map(|n| format!("{prefix}{n}")).collect::<Vec<_>>().join(", ");
    let values: Vec<String> = (1..=all.len()).map(|at| format!("?{at}")).collect();
    let set: Vec<String> = rest.iter().map(|name| format!("{name} = excluded.{name}")).collect();
    let put = format!(
        "INSERT INTO {name} AS x ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {} \
         WHERE x.revision < excluded.revision",
        all.join(", "),
        values.join(", "),
        key.join(", "),
        set.join(", "),
    );
    let equal =
        format!(" OR x.revision = excluded.revision AND ({}) IS NOT ({})", list("x.", &rest), list("excluded.", &rest));
    let at: Vec<String> = key.iter().enumerate().map(|(at, name)| format!("{name} = ?{}", at + 1)).collect();
    let remove =
        |than: &str| format!("DELETE FROM {name} WHERE {} AND revision {than} ?{}", at.join(" AND "), key.len() + 1);
    let own = if table.key().is_empty() { "1".to_owned() } else { table.key().join(", ") };
    OfTable {
        put_full: format!("{put}{equal}").into(),
        put: put.into(),
        remove: remove("<").into(),
        remove_full: remove("<=").into(),
        keys: format!("SELECT {own} FROM {name} WHERE meeting = ?1 AND leg = ?2 AND revision <= ?3").into(),
        reset: format!("UPDATE {name} SET revision = 0 WHERE meeting = ?1 AND leg = ?2 AND revision <> 0").into(),
    }
}
