//! The store on SQLite: one file, nothing to install. WAL, one writing connection, a few reading ones.
//!
//! The promises are kept more simply than on Postgres: every writing transaction takes the write lock at once
//! (`BEGIN IMMEDIATE`) and checks the term under it, so no other term can begin before it ends.

mod arguments;
mod lease;
mod prune;
mod read;
mod session;
mod statements;
mod write;

use super::fault::Fault;
use super::open::malformed;
use super::reads;
use super::records::Sink;
use super::schema::{bring_up_to_date, look};
use super::settle::{Asked, Found, settle};
use super::{
    Begun, CONTENTS_CHUNK, Candidate, Instance, LookUp, Outcome, Schema, Standing, Store, StoreError, StoreOptions,
    Unit,
};
use crate::model::{LegContent, StoredLeg};
use arguments::{Parameters, execute};
use futures_util::future::BoxFuture;
use remeet_protocol::record::Number;
use remeet_protocol::{LegId, MeetingId, ServerId, Token};
use session::{Kind, Sessions, fault};
use sqlx::SqliteConnection;
use sqlx::migrate::{MigrateError, Migrator};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use write::check_term;

/// How long a migration may take.
const MIGRATE_SPAN: Duration = Duration::from_secs(60);

/// The store on SQLite.
#[derive(Debug)]
pub(super) struct SqliteStore {
    sessions: Arc<Sessions>,
    path: PathBuf,
}

impl SqliteStore {
    /// `path` is what stands behind `sqlite:`.
    pub(super) fn open(path: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains('\0') {
            return Err(malformed("no path: write sqlite:PATH"));
        }
        if path == ":memory:" || path.contains('?') {
            return Err(malformed(
                "a plain path of a file is needed: readers and the writer have their own connections",
            ));
        }
        let path = PathBuf::from(path);
        Ok(Self { sessions: Arc::new(Sessions::new(&path, options.clone())), path })
    }

    /// Reads in one snapshot.
    async fn read<T, F>(&self, doing: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut SqliteConnection) -> BoxFuture<'s, Result<T, Fault>> + Send + 'static,
    {
        match self.sessions.transaction(Kind::Read, body).await {
            // A read commits nothing.
            Err(Fault::CommitUnknown(reason)) => Err(StoreError::Unavailable { doing, reason }),
            done => done.map_err(|fault| fault.told(doing, Token::default())),
        }
    }

    async fn look(&self, server: Option<ServerId>, legs: &[LegId]) -> Result<LookUp, StoreError> {
        let legs = legs.to_vec();
        self.read("looking legs up", move |connection| {
            Box::pin(async move { reads::look_up(connection, server, &legs).await })
        })
        .await
    }

    async fn write<T, F>(&self, doing: &'static str, token: Token, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut SqliteConnection) -> BoxFuture<'s, Result<T, Fault>> + Send + 'static,
    {
        self.sessions.transaction(Kind::Write, body).await.map_err(|fault| fault.told(doing, token))
    }

    async fn settle_units(&self, token: Token, units: &[Unit]) -> Result<Vec<Outcome>, StoreError> {
        let asked = Asked::of(units);
        let mut found = Found::default();
        let mut chunks: Vec<&[LegId]> = asked.legs.chunks(CONTENTS_CHUNK).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for (at, legs) in chunks.into_iter().enumerate() {
            let part = asked.part(legs, at == 0);
            let look = self.write("settling an unknown commit", token, move |connection| {
                Box::pin(async move { settle_part(connection, token, &part).await })
            });
            found.extend(look.await?);
        }
        Ok(settle(units, &found))
    }
}

/// Raises the legs' versions, then looks at everything that tells what stands.
async fn settle_part(connection: &mut SqliteConnection, token: Token, asked: &Asked) -> Result<Found, Fault> {
    check_term(connection, token).await?;
    for leg in &asked.legs {
        let raised = Parameters::of(|p| {
            p.put_leg(*leg);
            p.put_ordered(asked.raise);
        });
        execute(connection, &statements::RAISE, raised).await?;
    }
    reads::evidence(connection, asked).await
}

fn known() -> Migrator {
    sqlx::migrate!("migrations/sqlite")
}

async fn read_schema(connection: &mut SqliteConnection) -> Result<Schema, Fault> {
    let tracked = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| fault(&error))?;
    look(known(), connection, tracked).await.map_err(|error| migration_fault(&error))
}

fn migration_fault(error: &MigrateError) -> Fault {
    match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => match fault(cause) {
            Fault::Down(reason) | Fault::Slow(reason) => Fault::Down(reason),
            _ => Fault::Broken(error.to_string()),
        },
        other => Fault::Broken(format!("{other}: the schema is not one that this version can bring up to date")),
    }
}

impl Store for SqliteStore {
    fn migrate(&self) -> BoxFuture<'_, Result<Schema, StoreError>> {
        Box::pin(async {
            let run = self.sessions.alone(MIGRATE_SPAN, |connection| {
                Box::pin(async { bring_up_to_date(known(), connection).await.map_err(|error| migration_fault(&error)) })
            });
            run.await.map_err(|fault| fault.told("migrating the database", Token::default()))
        })
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema, StoreError>> {
        Box::pin(async {
            // Opening a connection would make the file.
            if !self.path.exists() {
                return Ok(Schema::none_of(&known()));
            }
            self.read("reading the schema", |connection| Box::pin(read_schema(connection))).await
        })
    }

    fn begin_term<'a>(&'a self, candidate: Candidate<'a>) -> BoxFuture<'a, Result<Begun, StoreError>> {
        Box::pin(self.next_term(candidate))
    }

    fn standing(&self) -> BoxFuture<'_, Result<Option<Standing>, StoreError>> {
        Box::pin(self.read("reading the term", |connection| Box::pin(lease::standing(connection))))
    }

    fn renew(&self, token: Token, lease: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.renew_lease(token, lease))
    }

    fn release(&self, token: Token) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.release_lease(token))
    }

    fn released(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.await_release(at_most))
    }

    fn look_up<'a>(&'a self, server: ServerId, legs: &'a [LegId]) -> BoxFuture<'a, Result<LookUp, StoreError>> {
        Box::pin(self.look(Some(server), legs))
    }

    fn legs<'a>(&'a self, legs: &'a [LegId]) -> BoxFuture<'a, Result<LookUp, StoreError>> {
        Box::pin(self.look(None, legs))
    }

    fn meeting(&self, meeting: MeetingId) -> BoxFuture<'_, Result<Vec<StoredLeg>, StoreError>> {
        Box::pin(self.read("reading a meeting", move |connection| Box::pin(reads::meeting(connection, meeting))))
    }

    fn live_legs(&self, after: MeetingId, max: u16) -> BoxFuture<'_, Result<Vec<StoredLeg>, StoreError>> {
        Box::pin(self.read("listing live legs", move |connection| Box::pin(reads::live_legs(connection, after, max))))
    }

    fn contents<'a>(&'a self, legs: &'a [LegId]) -> BoxFuture<'a, Result<Vec<LegContent>, StoreError>> {
        Box::pin(async move {
            let mut asked: HashSet<LegId> = HashSet::with_capacity(legs.len());
            let legs: Vec<LegId> = legs.iter().copied().filter(|leg| asked.insert(*leg)).collect();
            let mut all = Vec::with_capacity(legs.len());
            for legs in legs.chunks(CONTENTS_CHUNK) {
                let legs = legs.to_vec();
                let contents = self.read("reading contents", move |connection| {
                    Box::pin(async move { reads::contents(connection, &legs).await })
                });
                all.extend(contents.await?);
            }
            Ok(all)
        })
    }

    fn roster<'a>(&'a self, meeting: MeetingId, terminal: &'a Number) -> BoxFuture<'a, Result<Vec<LegId>, StoreError>> {
        let terminal = terminal.clone();
        Box::pin(self.read("reading who has a terminal", move |connection| {
            let terminal = terminal.clone();
            Box::pin(async move { reads::roster(connection, meeting, &terminal).await })
        }))
    }

    fn instance(&self, instance: u64) -> BoxFuture<'_, Result<Instance, StoreError>> {
        let doing = "reading a client's instance";
        Box::pin(self.read(doing, move |connection| Box::pin(reads::instance(connection, instance))))
    }

    fn write<'a>(&'a self, token: Token, units: &'a [Unit]) -> BoxFuture<'a, Result<Vec<Outcome>, StoreError>> {
        Box::pin(self.write_units(token, units))
    }

    fn settle<'a>(&'a self, token: Token, units: &'a [Unit]) -> BoxFuture<'a, Result<Vec<Outcome>, StoreError>> {
        Box::pin(self.settle_units(token, units))
    }

    fn prune_answers(
        &self,
        token: Token,
        older_than: Duration,
        instances_max: u32,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.prune(token, older_than, instances_max))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.sessions.close())
    }
}
