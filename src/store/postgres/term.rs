//! Beginning a term, and which one stands.

use super::PostgresStore;
use super::session::{fault, name_of};
use crate::store::fault::Fault;
use crate::store::lease::{Asked, Rows};
use crate::store::{Begun, Candidate, Standing, StoreError};
use remeet_protocol::{Holder, Token};
use sqlx::{Executor, PgConnection};
use std::time::Duration;
use uuid::Uuid;

/// How long beginning a term may take: a few rounds of `lock_timeout` and of ending sessions.
const TERM_SPAN: Duration = Duration::from_secs(10);
/// Rounds of waiting for the term's row and ending the replaced holder's sessions. A new session of it may slip in
/// between, and another node may begin a term at the same time.
const TERM_ROUNDS: u32 = 4;
/// How long an ended session is awaited, in milliseconds.
pub(super) const ENDED_WITHIN_MS: i64 = 1_000;

/// The term with its lease; a lease of another epoch is nobody's.
const STANDING: &str = "SELECT t.epoch, t.holder, t.node, \
     COALESCE(ceil(extract(epoch FROM l.expires_at - clock_timestamp()) * 1000), 0)::int8, COALESCE(l.lasts_ms, 0) \
     FROM term t LEFT JOIN lease l ON l.epoch = t.epoch";

impl PostgresStore {
    pub(super) async fn next_term(&self, candidate: Candidate<'_>) -> Result<Begun, StoreError> {
        let doing = "beginning a term";
        let asked = Asked::of(candidate, doing)?;
        let settings = vec![
            ("lock_timeout", "1000".to_owned()),
            ("statement_timeout", "3000".to_owned()),
            // It holds the rows of the term and of the lease, which others need.
            ("idle_in_transaction_session_timeout", "1000".to_owned()),
        ];
        let begun =
            self.sessions.alone(TERM_SPAN, settings, move |connection| Box::pin(begin(connection, asked))).await;
        let begun = begun.map_err(|fault| fault.told(doing, Token::default()))?;
        if let Begun::Granted(token) = &begun {
            self.sessions.name_after(token.holder);
        }
        Ok(begun)
    }

    pub(super) async fn current_term(&self) -> Result<Option<Standing>, StoreError> {
        self.read("reading the term", |session| Box::pin(standing(session.connection()))).await
    }
}

/// The term that stands.
pub(super) async fn standing(connection: &mut PgConnection) -> Result<Option<Standing>, Fault> {
    let row = sqlx::query_as::<_, (i64, Uuid, String, i64, i64)>(STANDING).fetch_optional(connection).await;
    let Some((epoch, holder, node, left_ms, lasts_ms)) = row.map_err(|error| fault(&error))? else { return Ok(None) };
    Rows { epoch, holder: Holder(holder), node, left_ms, lasts_ms }.standing().map(Some)
}

async fn begin(connection: &mut PgConnection, asked: Asked) -> Result<Begun, Fault> {
    for _ in 0..TERM_ROUNDS {
        // Without a lock: a standby that asks again and again is no burden to the holder's writers.
        let stands = standing(connection).await?;
        if let Some(stands) = stands.filter(|stands| stands.keeps_out(&asked.node)) {
            return Ok(Begun::Held(stands));
        }
        match begin_once(connection, &asked).await {
            // The lease allows the grant, so the sessions that keep the row locked are of a holder without one.
            Err(Fault::Slow(_)) => end_replaced(connection).await?,
            // Another began at the same time: it has a lease now.
            Err(Fault::Contended(_)) => {}
            done => return done,
        }
    }
    Err(Fault::Down("writers of the replaced holder keep the term locked".to_owned()))
}

/// One transaction that locks both rows, judges the lease under the locks, and grants.
async fn begin_once(connection: &mut PgConnection, asked: &Asked) -> Result<Begun, Fault> {
    connection.execute("BEGIN").await.map_err(|error| fault(&error))?;
    match judge_and_grant(connection, asked).await {
        Ok(begun) => {
            connection.execute("COMMIT").await.map_err(|error| match fault(&error) {
                // Whether it was committed nobody knows; the next begin is above it.
                Fault::Down(reason) if error.as_database_error().is_none() => Fault::CommitUnknown(reason),
                fault => fault,
            })?;
            Ok(begun)
        }
        Err(fault) => {
            // If this fails too, the connection is of no use, and the next statement says so.
            drop(connection.execute("ROLLBACK").await);
            Err(fault)
        }
    }
}

async fn judge_and_grant(connection: &mut PgConnection, asked: &Asked) -> Result<Begun, Fault> {
    // The term's row first, which writers hold. A renewal takes the lease's row only, and for one statement.
    for lock in ["SELECT 1 FROM term FOR UPDATE", "SELECT 1 FROM lease FOR UPDATE"] {
        connection.execute(lock).await.map_err(|error| fault(&error))?;
    }
    // A statement of its own: its clock is read after the locks are held, and it sees what was committed until then.
    let stands = standing(connection).await?;
    if let Some(stands) = &stands
        && stands.keeps_out(&asked.node)
    {
        return Ok(Begun::Held(stands.clone()));
    }
    // No row could be locked if there is none: who inserts it first begins.
    let sql = if stands.is_some() {
        "UPDATE term SET epoch = GREATEST(epoch, $1) + 1, holder = $2, node = $3, began_at = clock_timestamp() \
         RETURNING epoch"
    } else {
        "INSERT INTO term (epoch, holder, node) VALUES ($1 + 1, $2, $3) ON CONFLICT DO NOTHING RETURNING epoch"
    };
    let granted = sqlx::query_scalar::<_, i64>(sql)
        .bind(asked.above)
        .bind(asked.holder.0)
        .bind(asked.stored_node())
        .fetch_optional(&mut *connection)
        .await
        .map_err(|error| fault(&error))?;
    let Some(epoch) = granted else { return Err(Fault::Contended("another term began".to_owned())) };
    sqlx::query(
        "INSERT INTO lease AS l (epoch, lasts_ms, expires_at) \
         VALUES ($1, $2, clock_timestamp() + make_interval(secs => $2 / 1000.0)) ON CONFLICT (only_row) \
         DO UPDATE SET epoch = excluded.epoch, lasts_ms = excluded.lasts_ms, expires_at = excluded.expires_at",
    )
    .bind(epoch)
    .bind(asked.lease_ms)
    .execute(connection)
    .await
    .map_err(|error| fault(&error))?;
    Ok(Begun::Granted(asked.token(epoch)))
}

/// Ends every session of the holder that stands in the term, but this one.
async fn end_replaced(connection: &mut PgConnection) -> Result<(), Fault> {
    let standing = sqlx::query_scalar::<_, Uuid>("SELECT holder FROM term").fetch_optional(&mut *connection).await;
    let Some(holder) = standing.map_err(|error| fault(&error))? else { return Ok(()) };
    let ended = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM (SELECT pg_terminate_backend(pid, $2) FROM pg_stat_activity \
         WHERE application_name = $1 AND pid <> pg_backend_pid()) ended",
    )
    .bind(name_of(Holder(holder)))
    .bind(ENDED_WITHIN_MS)
    .fetch_one(connection)
    .await
    .map_err(|error| fault(&error))?;
    tracing::warn!(%holder, ended, "ended the replaced holder's sessions, which kept the term locked");
    Ok(())
}
