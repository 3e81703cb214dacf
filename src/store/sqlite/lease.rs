//! The term and its lease, all under the write lock.
//!
//! A renewal shares the one writing connection. That is fine here: whatever connection it had, it would wait for the
//! file's one write lock, and whoever holds that is done within its deadline; a standby asks for the same lock, on the
//! same machine. It waits in the pool's order, behind at most the transactions that were asked before it.

use super::SqliteStore;
use super::session::{Kind, fault};
use super::write::check_term;
use crate::store::fault::Fault;
use crate::store::lease::{Asked, Rows, milliseconds, renewal_span};
use crate::store::{Begun, Candidate, Standing, StoreError};
use remeet_protocol::Token;
use sqlx::SqliteConnection;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How often a standby looks: a file tells nobody. It is one short read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The term with its lease; a lease of another epoch is nobody's.
const STANDING: &str = "SELECT t.epoch, t.holder, t.node, \
     COALESCE(CAST(round((unixepoch(l.expires_at, 'subsec') - unixepoch('subsec')) * 1000) AS INTEGER), 0), \
     COALESCE(l.lasts_ms, 0) FROM term t LEFT JOIN lease l ON l.epoch = t.epoch";

impl SqliteStore {
    pub(super) async fn next_term(&self, candidate: Candidate<'_>) -> Result<Begun, StoreError> {
        let doing = "beginning a term";
        let asked = Asked::of(candidate, doing)?;
        // A standby that asks again and again takes no lock.
        let stands = self.read(doing, |connection| Box::pin(standing(connection))).await?;
        if let Some(stands) = stands.filter(|stands| stands.keeps_out(&asked.node)) {
            return Ok(Begun::Held(stands));
        }
        self.write(doing, Token::default(), move |connection| {
            Box::pin(async move { judge_and_grant(connection, &asked).await })
        })
        .await
    }

    pub(super) async fn renew_lease(&self, token: Token, lease: Duration) -> Result<(), StoreError> {
        let lease_ms = milliseconds(lease);
        let renewed = self.sessions.transaction_within(renewal_span(lease), Kind::Write, move |connection| {
            Box::pin(async move { renew(connection, token, lease_ms).await })
        });
        renewed.await.map_err(|fault| fault.told("renewing the lease", token))
    }

    pub(super) async fn release_lease(&self, token: Token) -> Result<(), StoreError> {
        self.write("releasing the lease", token, move |connection| Box::pin(release(connection, token))).await
    }

    pub(super) async fn await_release(&self, at_most: Duration) {
        let end = Instant::now() + at_most;
        loop {
            let stands = self.read("awaiting the lease", |connection| Box::pin(standing(connection))).await;
            let over = matches!(&stands, Ok(stands) if stands.as_ref().is_none_or(|stands| stands.remaining.is_zero()));
            if over || Instant::now() >= end {
                return;
            }
            sleep_until(end.min(Instant::now() + LOOK_EVERY)).await;
        }
    }
}

/// The term that stands.
pub(super) async fn standing(connection: &mut SqliteConnection) -> Result<Option<Standing>, Fault> {
    let row = sqlx::query_as::<_, (i64, String, String, i64, i64)>(STANDING).fetch_optional(connection).await;
    let Some((epoch, holder, node, left_ms, lasts_ms)) = row.map_err(|error| fault(&error))? else { return Ok(None) };
    let holder = holder.parse().map_err(|error| Fault::Broken(format!("the term's holder {holder:?}: {error}")))?;
    Rows { epoch, holder, node, left_ms, lasts_ms }.standing().map(Some)
}

async fn judge_and_grant(connection: &mut SqliteConnection, asked: &Asked) -> Result<Begun, Fault> {
    // Nobody else writes now, and every statement reads the clock anew.
    if let Some(stands) = standing(connection).await?
        && stands.keeps_out(&asked.node)
    {
        return Ok(Begun::Held(stands));
    }
    let epoch = sqlx::query_scalar::<_, i64>(
        "INSERT INTO term AS t (only_row, epoch, holder, node) VALUES (1, ?1 + 1, ?2, ?3) ON CONFLICT (only_row) \
         DO UPDATE SET epoch = max(t.epoch, ?1) + 1, holder = excluded.holder, node = excluded.node, \
         began_at = CURRENT_TIMESTAMP RETURNING epoch",
    )
    .bind(asked.above)
    .bind(asked.holder.to_string())
    .bind(asked.stored_node())
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| fault(&error))?;
    sqlx::query(
        "INSERT INTO lease (only_row, epoch, lasts_ms, expires_at) \
         VALUES (1, ?1, ?2, strftime('%Y-%m-%d %H:%M:%f', 'now', (?2 / 1000.0) || ' seconds')) \
         ON CONFLICT (only_row) DO UPDATE \
         SET epoch = excluded.epoch, lasts_ms = excluded.lasts_ms, expires_at = excluded.expires_at",
    )
    .bind(epoch)
    .bind(asked.lease_ms)
    .execute(connection)
    .await
    .map_err(|error| fault(&error))?;
    Ok(Begun::Granted(asked.token(epoch)))
}

async fn renew(connection: &mut SqliteConnection, token: Token, lease_ms: i64) -> Result<(), Fault> {
    check_term(connection, token).await?;
    let renewed = sqlx::query(
        "UPDATE lease SET lasts_ms = ?2, expires_at = strftime('%Y-%m-%d %H:%M:%f', 'now', (?2 / 1000.0) || ' seconds') \
         WHERE epoch = ?1",
    )
    .bind(token.epoch.0.cast_signed())
    .bind(lease_ms)
    .execute(connection)
    .await
    .map_err(|error| fault(&error))?;
    if renewed.rows_affected() == 1 { Ok(()) } else { Err(Fault::Fenced) }
}

/// The epoch goes with it: a renewal that was asked before and comes after does not bring the lease back.
async fn release(connection: &mut SqliteConnection, token: Token) -> Result<(), Fault> {
    check_term(connection, token).await?;
    sqlx::query("UPDATE lease SET epoch = 0, expires_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE epoch = ?1")
        .bind(token.epoch.0.cast_signed())
        .execute(connection)
        .await
        .map(drop)
        .map_err(|error| fault(&error))
}
