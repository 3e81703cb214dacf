//! Beginning a term, migrating, and settling: what ends other sessions or needs a connection of its own.

use super::compile::rows;
use super::session::{Kind, Session, fault, name_of};
use super::statements::{Step, fenced};
use super::write::step;
use super::{PostgresStore, columns::Columns};
use crate::store::fault::Fault;
use crate::store::reads;
use crate::store::records::Sink;
use crate::store::settle::{Asked, Found, settle};
use crate::store::{CONTENTS_CHUNK, Outcome, StoreError, Unit};
use remeet_protocol::{Epoch, Holder, LegId, Token};
use sqlx::PgConnection;
use sqlx::migrate::{MigrateError, Migrator};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long a migration may take: on large tables an additive change rewrites nothing, but waits for locks.
const MIGRATE_SPAN: Duration = Duration::from_secs(60);
/// How long beginning a term may take: a few rounds of `lock_timeout` and of ending sessions.
const TERM_SPAN: Duration = Duration::from_secs(10);
/// Rounds of waiting for the term's row and ending the replaced holder's sessions. A new session of it may slip in
/// between, and another node may begin a term at the same time.
const TERM_ROUNDS: u32 = 4;
/// How long an ended session is awaited, in milliseconds.
const ENDED_WITHIN_MS: i64 = 1_000;
/// How long ending unknown commits' sessions may take.
const SUSPECTS_SPAN: Duration = Duration::from_secs(3);

impl PostgresStore {
    pub(super) async fn run_migrations(&self) -> Result<(), StoreError> {
        let doing = "migrating the database";
        let statement = MIGRATE_SPAN.mul_f32(0.9).as_millis().to_string();
        let settings = vec![("statement_timeout", statement)];
        let done =
            self.sessions.alone(MIGRATE_SPAN, settings, |connection| Box::pin(bring_up_to_date(connection))).await;
        done.map_err(|fault| fault.told(doing, Token::default()))
    }

    pub(super) async fn next_term(&self, node: &str, holder: Holder, above: Epoch) -> Result<Token, StoreError> {
        let doing = "beginning a term";
        let Ok(above) = i64::try_from(above.0) else {
            return Err(StoreError::Broken { doing, reason: format!("no epoch can follow {above}") });
        };
        let node = node.to_owned();
        let settings = vec![("lock_timeout", "1000".to_owned()), ("statement_timeout", "3000".to_owned())];
        let begun = self
            .sessions
            .alone(TERM_SPAN, settings, move |connection| Box::pin(begin(connection, node, holder, above)));
        let epoch = begun.await.map_err(|fault| fault.told(doing, Token::default()))?;
        self.sessions.name_after(holder);
        Ok(Token { epoch: Epoch(epoch.cast_unsigned()), holder })
    }

    pub(super) async fn current_term(&self) -> Result<Option<Token>, StoreError> {
        let row = self.read("reading the term", |session| Box::pin(standing(session))).await?;
        Ok(row.map(|(epoch, holder)| Token { epoch: Epoch(epoch.cast_unsigned()), holder: Holder(holder) }))
    }

    pub(super) async fn settle_units(&self, token: Token, units: &[Unit]) -> Result<Vec<Outcome>, StoreError> {
        let doing = "settling an unknown commit";
        let deadline = Instant::now() + self.sessions.options().call_deadline;
        let told = |fault: Fault| fault.told(doing, token);
        self.end_suspects().await.map_err(told)?;
        let asked = Asked::of(units);
        let mut found = Found::default();
        let mut chunks: Vec<&[LegId]> = asked.legs.chunks(CONTENTS_CHUNK).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for (at, legs) in chunks.into_iter().enumerate() {
            if Instant::now() >= deadline {
                return Err(told(Fault::Down("not all is settled in time".to_owned())));
            }
            let part = asked.part(legs, at == 0);
            let look = self.sessions.transaction(Kind::Write, move |session| Box::pin(look(session, token, part)));
            found.extend(look.await.map_err(told)?);
        }
        Ok(settle(units, &found))
    }

    /// Ends the sessions whose commit is unknown: once they are gone, what they wrote stands or never will.
    async fn end_suspects(&self) -> Result<(), Fault> {
        let suspects = self.sessions.suspects();
        if suspects.is_empty() {
            return Ok(());
        }
        let name = self.sessions.name();
        let backends = suspects.clone();
        let end = self
            .sessions
            .alone(SUSPECTS_SPAN, Vec::new(), move |connection| Box::pin(end_backends(connection, backends, name)));
        end.await?;
        self.sessions.cleared(&suspects);
        Ok(())
    }
}

async fn bring_up_to_date(connection: &mut PgConnection) -> Result<(), Fault> {
    // The release before meets migrations that it does not know: additive ones.
    let migrator = Migrator { ignore_missing: true, ..sqlx::migrate!("migrations/postgres") };
    migrator.run_direct(None, connection, false).await.map_err(|error| migration_fault(&error))
}

async fn standing(session: &mut Session) -> Result<Option<(i64, Uuid)>, Fault> {
    let row = sqlx::query_as("SELECT epoch, holder FROM term").fetch_optional(session.connection()).await;
    row.map_err(|error| fault(&error))
}

async fn end_backends(connection: &mut PgConnection, backends: Vec<i32>, name: String) -> Result<(), Fault> {
    let gone = sqlx::query_scalar::<_, bool>(
        "SELECT COALESCE(bool_and(pg_terminate_backend(pid, $3)), true) FROM pg_stat_activity \
         WHERE pid = ANY($1) AND application_name = $2 AND pid <> pg_backend_pid()",
    )
    .bind(backends)
    .bind(name)
    .bind(ENDED_WITHIN_MS)
    .fetch_one(connection)
    .await
    .map_err(|error| fault(&error))?;
    if gone { Ok(()) } else { Err(Fault::Down("a session with an unknown commit does not end".to_owned())) }
}

async fn begin(connection: &mut PgConnection, node: String, holder: Holder, above: i64) -> Result<i64, Fault> {
    for _ in 0..TERM_ROUNDS {
        match begin_once(connection, &node, holder, above).await {
            Err(Fault::Slow(_)) => end_replaced(connection).await?,
            done => return done,
        }
    }
    Err(Fault::Down("writers of the replaced holder keep the term locked".to_owned()))
}

async fn begin_once(connection: &mut PgConnection, node: &str, holder: Holder, above: i64) -> Result<i64, Fault> {
    // No epoch at the end of the numbers: the next one could not follow.
    sqlx::query_scalar::<_, i64>(
        "INSERT INTO term AS t (epoch, holder, node) VALUES ($1 + 1, $2, $3) ON CONFLICT (only_row) DO UPDATE \
         SET epoch = GREATEST(t.epoch, $1) + 1, holder = excluded.holder, node = excluded.node, began_at = now() \
         RETURNING epoch",
    )
    .bind(above)
    .bind(holder.0)
    .bind(crate::store::text::stored(node))
    .fetch_one(connection)
    .await
    .map_err(|error| match fault(&error) {
        // One statement, committed by itself: whether it was, nobody knows; the next begin is above it.
        Fault::Down(reason) if error.as_database_error().is_none() => Fault::CommitUnknown(reason),
        fault => fault,
    })
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

/// Raises the legs' versions, then looks at everything that tells what stands.
async fn look(session: &mut Session, token: Token, asked: Asked) -> Result<Found, Fault> {
    step(session, token, &raise(&asked.legs)).await?;
    reads::evidence(session.connection(), &asked).await
}

/// Raises the legs' versions: a late commit that compares them loses.
fn raise(legs: &[LegId]) -> Step {
    let doing = "raising versions";
    let columns: Columns = rows(legs, |row, leg| row.put_leg(*leg));
    if columns.is_empty() {
        return Step { doing, sql: fenced("", "0::int8"), columns: Vec::new(), expected: None };
    }
    let ctes = format!(
        "w AS (UPDATE legs l SET version = l.version + 1 FROM {}, t \
               WHERE l.meeting = u.meeting AND l.leg = u.leg RETURNING 1)",
        columns.unnest(3, "u", &["meeting", "leg"])
    );
    Step { doing, sql: fenced(&ctes, "(SELECT count(*) FROM w)"), columns: vec![columns], expected: None }
}

fn migration_fault(error: &MigrateError) -> Fault {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => match fault(error) {
            Fault::Down(reason) => Fault::Down(reason),
            Fault::Slow(reason) | Fault::Contended(reason) => Fault::Down(reason),
            _ => Fault::Broken(error.to_string()),
        },
        other => Fault::Broken(format!("{other}: the schema is not one that this version can bring up to date")),
    }
}
