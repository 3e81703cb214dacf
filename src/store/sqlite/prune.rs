//! Pruning clients' answers and done intents, a bounded number of rows in each transaction.

use super::SqliteStore;
use super::session::{Kind, fault};
use super::write::check_term;
use crate::store::StoreError;
use crate::store::fault::Fault;
use remeet_protocol::Token;
use sqlx::SqliteConnection;
use std::time::Duration;

/// Rows of each kind deleted by one transaction: well within its deadline.
const CHUNK: i64 = 10_000;
/// Transactions of one call; what is left goes with the next one.
const CHUNKS_MAX: u32 = 100;

/// The oldest answers that are older than `?1`. Rows are deleted in the order of their age, so that both statements
/// that use it mean the same ones.
const OLD_ANSWERS: &str =
    "SELECT instance, number FROM client_answers WHERE at_ms < ?1 ORDER BY at_ms, instance, number LIMIT ?2";
/// The oldest done intents that are older than `?1`.
const OLD_INTENTS: &str = "SELECT meeting, leg, number FROM intents WHERE code IS NOT NULL \
     AND COALESCE(done_at_ms, 0) < ?1 ORDER BY COALESCE(done_at_ms, 0), meeting, leg, number LIMIT ?2";
/// The least recent instances beyond `?1`.
const OLD_INSTANCES: &str =
    "SELECT instance FROM client_instances ORDER BY last_at_ms DESC, instance LIMIT ?2 OFFSET ?1";

impl SqliteStore {
    pub(super) async fn prune(&self, token: Token, older: Duration, instances_max: u32) -> Result<u64, StoreError> {
        let doing = "pruning clients' answers and done intents";
        let older_ms = i64::try_from(older.as_millis()).unwrap_or(i64::MAX);
        let mut total = 0;
        for _ in 0..CHUNKS_MAX {
            let pruned = self.sessions.transaction(Kind::Write, move |connection| {
                Box::pin(prune_once(connection, token, older_ms, i64::from(instances_max)))
            });
            let (deleted, whole) = pruned.await.map_err(|fault| fault.told(doing, token))?;
            total += deleted;
            if whole {
                break;
            }
        }
        Ok(total)
    }
}

/// Deletes one chunk of each kind: how many answers and intents, and whether that was all.
async fn prune_once(
    connection: &mut SqliteConnection,
    token: Token,
    older_ms: i64,
    instances_max: i64,
) -> Result<(u64, bool), Fault> {
    check_term(connection, token).await?;
    let now_ms = sqlx::query_scalar::<_, i64>("SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)");
    let now_ms = now_ms.fetch_one(&mut *connection).await.map_err(|error| fault(&error))?;
    let before = now_ms.saturating_sub(older_ms);
    // The instance's row outlives its answers, so that their numbers stay too old; it goes only with the instance.
    let raise_pruned = format!(
        "UPDATE client_instances SET pruned = max(pruned, g.top) FROM \
         (SELECT instance, max(number) AS top FROM ({OLD_ANSWERS}) GROUP BY instance) g \
         WHERE client_instances.instance = g.instance"
    );
    run(connection, raise_pruned, before, CHUNK).await?;
    let answers = format!("DELETE FROM client_answers WHERE (instance, number) IN ({OLD_ANSWERS})");
    let answers = run(connection, answers, before, CHUNK).await?;
    let of_instances = format!("DELETE FROM client_answers WHERE instance IN ({OLD_INSTANCES})");
    let of_instances = run(connection, of_instances, instances_max, CHUNK / 256).await?;
    let instances = format!("DELETE FROM client_instances WHERE instance IN ({OLD_INSTANCES})");
    let instances = run(connection, instances, instances_max, CHUNK / 256).await?;
    // The leg remembers up to where its numbers are taken.
    let raise_taken = format!(
        "UPDATE legs SET intents_pruned = max(intents_pruned, g.top) FROM \
         (SELECT meeting, leg, max(number) AS top FROM ({OLD_INTENTS}) GROUP BY meeting, leg) g \
         WHERE legs.meeting = g.meeting AND legs.leg = g.leg"
    );
    run(connection, raise_taken, before, CHUNK).await?;
    let intents = format!("DELETE FROM intents WHERE (meeting, leg, number) IN ({OLD_INTENTS})");
    let intents = run(connection, intents, before, CHUNK).await?;
    let chunk = CHUNK.unsigned_abs();
    let whole = answers < chunk && intents < chunk && instances < chunk / 256;
    Ok((answers + of_instances + intents, whole))
}

async fn run(connection: &mut SqliteConnection, sql: String, first: i64, limit: i64) -> Result<u64, Fault> {
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(first).bind(limit).execute(connection).await;
    done.map(|done| done.rows_affected()).map_err(|error| fault(&error))
}
