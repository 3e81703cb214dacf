//! Settling unknown commits, which ends other sessions.

use super::compile::rows;
use super::session::{Kind, Session, fault};
use super::statements::{Step, fenced};
use super::term::ENDED_WITHIN_MS;
use super::write::step;
use super::{PostgresStore, columns::Columns};
use crate::store::fault::Fault;
use crate::store::reads;
use crate::store::records::Sink;
use crate::store::settle::{Asked, Found, settle};
use crate::store::{CONTENTS_CHUNK, Outcome, StoreError, Unit};
use remeet_protocol::{LegId, Token};
use sqlx::PgConnection;
use std::time::Duration;
use tokio::time::Instant;

/// How long ending unknown commits' sessions may take.
const SUSPECTS_SPAN: Duration = Duration::from_secs(3);

impl PostgresStore {
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

/// Raises the legs' versions, then looks at everything that tells what stands.
async fn look(session: &mut Session, token: Token, asked: Asked) -> Result<Found, Fault> {
    step(session, token, &raise(&asked)).await?;
    reads::evidence(session.connection(), &asked).await
}

/// Raises the legs' versions: a late commit that compares them loses.
fn raise(asked: &Asked) -> Step {
    let doing = "raising versions";
    let columns: Columns = rows(&asked.legs, |row, leg| {
        row.put_leg(*leg);
        row.put_ordered(asked.raise);
    });
    if columns.is_empty() {
        return Step { doing, sql: fenced("", "0::int8"), columns: Vec::new(), expected: None };
    }
    let ctes = format!(
        "w AS (UPDATE legs l SET version = l.version + u.raise FROM {}, t \
               WHERE l.meeting = u.meeting AND l.leg = u.leg RETURNING 1)",
        columns.unnest(3, "u", &["meeting", "leg", "raise"])
    );
    Step { doing, sql: fenced(&ctes, "(SELECT count(*) FROM w)"), columns: vec![columns], expected: None }
}
