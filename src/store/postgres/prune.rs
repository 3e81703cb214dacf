//! Pruning clients' answers by age and by the number of instances, and done intents by age.

use super::PostgresStore;
use super::session::{Kind, Session, fault};
use super::statements::fenced;
use crate::store::StoreError;
use crate::store::fault::Fault;
use remeet_protocol::Token;
use sqlx::AssertSqlSafe;
use std::time::Duration;

/// Rows deleted by one statement: well within its time-out.
const CHUNK: i64 = 20_000;
/// Statements of one call; what is left goes with the next one.
const CHUNKS_MAX: u32 = 50;

impl PostgresStore {
    pub(super) async fn prune(&self, token: Token, older: Duration, instances_max: u32) -> Result<u64, StoreError> {
        let doing = "pruning clients' answers and done intents";
        let older_ms = i64::try_from(older.as_millis()).unwrap_or(i64::MAX);
        let mut total = 0;
        for _ in 0..CHUNKS_MAX {
            let instances = i64::from(instances_max);
            let done = self
                .sessions
                .transaction(Kind::Write, move |session| Box::pin(prune_once(session, token, older_ms, instances)));
            let (deleted, whole) = done.await.map_err(|fault| fault.told(doing, token))?;
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
    session: &mut Session,
    token: Token,
    older_ms: i64,
    instances_max: i64,
) -> Result<(u64, bool), Fault> {
    // The instance's row outlives its answers, so that their numbers stay too old; it goes only with the instance.
    let by_age = fenced(
        "x AS MATERIALIZED (SELECT a.instance, a.number FROM client_answers a, t \
               WHERE a.at_ms < (extract(epoch FROM clock_timestamp()) * 1000)::int8 - $3 \
               ORDER BY a.at_ms LIMIT $4), \
         w AS (DELETE FROM client_answers a USING x WHERE a.instance = x.instance AND a.number = x.number \
               RETURNING a.instance, a.number), \
         p AS (UPDATE client_instances i SET pruned = GREATEST(i.pruned, g.top) \
               FROM (SELECT instance, max(number) AS top FROM w GROUP BY instance) g WHERE i.instance = g.instance)",
        "(SELECT count(*) FROM w), (SELECT count(*) FROM x)",
    );
    let by_instance = fenced(
        "x AS MATERIALIZED (SELECT i.instance FROM client_instances i \
               ORDER BY i.last_at_ms DESC, i.instance OFFSET $3 LIMIT $4), \
         w AS (DELETE FROM client_answers a USING x, t WHERE a.instance = x.instance RETURNING 1), \
         i AS (DELETE FROM client_instances i USING x, t WHERE i.instance = x.instance)",
        "(SELECT count(*) FROM w), (SELECT count(*) FROM x)",
    );
    // The leg remembers up to where its numbers are taken. A leg that somebody is writing is left for the next time:
    // waiting for several legs' rows here while a writer waits for them in another order would be a deadlock.
    let intents = fenced(
        "x AS MATERIALIZED (SELECT i.meeting, i.leg, i.number FROM intents i, t WHERE i.code IS NOT NULL \
               AND COALESCE(i.done_at_ms, 0) < (extract(epoch FROM clock_timestamp()) * 1000)::int8 - $3 \
               ORDER BY COALESCE(i.done_at_ms, 0) LIMIT $4), \
         l AS MATERIALIZED (SELECT l.meeting, l.leg FROM legs l \
               WHERE (l.meeting, l.leg) IN (SELECT meeting, leg FROM x) FOR UPDATE SKIP LOCKED), \
         w AS (DELETE FROM intents i USING x, l WHERE i.meeting = x.meeting AND i.leg = x.leg \
               AND i.number = x.number AND l.meeting = x.meeting AND l.leg = x.leg \
               RETURNING i.meeting, i.leg, i.number), \
         p AS (UPDATE legs l SET intents_pruned = GREATEST(l.intents_pruned, g.top) \
               FROM (SELECT meeting, leg, max(number) AS top FROM w GROUP BY meeting, leg) g \
               WHERE l.meeting = g.meeting AND l.leg = g.leg)",
        "(SELECT count(*) FROM w), (SELECT count(*) FROM x)",
    );
    let (mut deleted, mut whole) = (0, true);
    // 78 instances of 256 answers are one chunk.
    let steps = [(by_age, older_ms, CHUNK), (by_instance, instances_max, CHUNK / 256), (intents, older_ms, CHUNK)];
    for (sql, first, limit) in steps {
        let (term, count, found, backend): (i64, i64, i64, i32) = sqlx::query_as(AssertSqlSafe(sql))
            .bind(token.epoch.0.cast_signed())
            .bind(token.holder.0)
            .bind(first)
            .bind(limit)
            .fetch_one(session.connection())
            .await
            .map_err(|error| fault(&error))?;
        session.backend = Some(backend);
        if term == 0 {
            return Err(Fault::Fenced);
        }
        deleted += count.unsigned_abs();
        whole &= found < limit;
    }
    Ok((deleted, whole))
}
