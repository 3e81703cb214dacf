//! Migrating, on a connection of its own.

use super::PostgresStore;
use super::session::fault;
use crate::store::StoreError;
use crate::store::fault::Fault;
use crate::store::schema::{Schema, bring_up_to_date, look};
use remeet_protocol::Token;
use sqlx::PgConnection;
use sqlx::migrate::{MigrateError, Migrator};
use std::time::Duration;

/// How long migrating may take: on large tables an additive change rewrites nothing, but an index is built.
const MIGRATE_SPAN: Duration = Duration::from_secs(60);
/// How long a change of a table waits for those who use it: everybody else waits behind it, the holder's writers too.
const LOCK_SPAN: Duration = Duration::from_secs(1);
/// How long a look at the schema may take.
const LOOK_SPAN: Duration = Duration::from_secs(5);

impl PostgresStore {
    pub(super) async fn run_migrations(&self) -> Result<Schema, StoreError> {
        let ms = |span: Duration| span.as_millis().to_string();
        let settings = vec![("statement_timeout", ms(MIGRATE_SPAN.mul_f32(0.9))), ("lock_timeout", ms(LOCK_SPAN))];
        let run = self.sessions.alone(MIGRATE_SPAN, settings, |connection| {
            Box::pin(async { bring_up_to_date(known(), connection).await.map_err(|error| migration_fault(&error)) })
        });
        run.await.map_err(|fault| fault.told("migrating the database", Token::default()))
    }

    pub(super) async fn read_schema(&self) -> Result<Schema, StoreError> {
        let run = self.sessions.alone(LOOK_SPAN, Vec::new(), |connection| Box::pin(read(connection)));
        run.await.map_err(|fault| fault.told("reading the schema", Token::default()))
    }
}

fn known() -> Migrator {
    sqlx::migrate!("migrations/postgres")
}

async fn read(connection: &mut PgConnection) -> Result<Schema, Fault> {
    let tracked = sqlx::query_scalar::<_, bool>("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| fault(&error))?;
    look(known(), connection, tracked).await.map_err(|error| migration_fault(&error))
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
