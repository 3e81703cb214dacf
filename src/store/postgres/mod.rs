//! The store on Postgres (14 or later).
//!
//! ```text
//!   Store ── write.rs ── compile.rs ── statements.rs, columns.rs     units → fenced UNNEST statements
//!        ├── read.rs                                                  bulk look-ups
//!        ├── term.rs, lease.rs                                        beginning a term; its lease
//!        ├── migrate.rs                                               the schema
//!        ├── settle.rs                                                unknown commits
//!        └── all through session.rs                                   the one place that talks to the server
//! ```

mod columns;
mod compile;
mod lease;
mod lot;
mod migrate;
mod prune;
mod read;
mod session;
mod settle;
mod statements;
mod term;
mod write;

use super::fault::Fault;
use super::open::malformed;
use super::reads;
use super::{
    Begun, CONTENTS_CHUNK, Candidate, Instance, LookUp, Outcome, Schema, Standing, Store, StoreError, StoreOptions,
    Unit,
};
use crate::model::{LegContent, StoredLeg};
use futures_util::future::BoxFuture;
use lease::Lines;
use remeet_protocol::record::Number;
use remeet_protocol::{LegId, MeetingId, ServerId, Token};
use session::{Kind, Session, Sessions};
use sqlx::postgres::PgConnectOptions;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// The store on Postgres.
#[derive(Debug)]
pub(super) struct PostgresStore {
    sessions: Arc<Sessions>,
    lines: Lines,
}

impl PostgresStore {
    pub(super) fn open(url: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let base: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| malformed(&error.to_string()))?;
        Ok(Self { lines: Lines::new(base.clone()), sessions: Arc::new(Sessions::new(base, options.clone())) })
    }

    /// Reads in one snapshot.
    async fn read<T, F>(&self, doing: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, Fault>> + Clone + Send + 'static,
    {
        // A stale plan or a read that met a change of the schema: on another connection once more.
        let mut again = self.sessions.options().read_connections.max(1);
        loop {
            match self.sessions.transaction(Kind::Read, body.clone()).await {
                Err(Fault::StalePlan(_) | Fault::Contended(_)) if again > 0 => again -= 1,
                // A read commits nothing.
                Err(Fault::CommitUnknown(reason)) => return Err(StoreError::Unavailable { doing, reason }),
                done => return done.map_err(|fault| fault.told(doing, Token::default())),
            }
        }
    }

    async fn look(&self, server: Option<ServerId>, legs: &[LegId]) -> Result<LookUp, StoreError> {
        let legs: Arc<[LegId]> = legs.into();
        self.read("looking legs up", move |session| {
            let legs = Arc::clone(&legs);
            Box::pin(async move { reads::look_up(session.connection(), server, &legs).await })
        })
        .await
    }
}

impl Store for PostgresStore {
    fn migrate(&self) -> BoxFuture<'_, Result<Schema, StoreError>> {
        Box::pin(self.run_migrations())
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema, StoreError>> {
        Box::pin(self.read_schema())
    }

    fn begin_term<'a>(&'a self, candidate: Candidate<'a>) -> BoxFuture<'a, Result<Begun, StoreError>> {
        Box::pin(self.next_term(candidate))
    }

    fn standing(&self) -> BoxFuture<'_, Result<Option<Standing>, StoreError>> {
        Box::pin(self.current_term())
    }

    fn renew(&self, token: Token, lease: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.lines.renew(token, lease))
    }

    fn release(&self, token: Token) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.lines.release(token))
    }

    fn released(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.lines.released(at_most))
    }

    fn look_up<'a>(&'a self, server: ServerId, legs: &'a [LegId]) -> BoxFuture<'a, Result<LookUp, StoreError>> {
        Box::pin(self.look(Some(server), legs))
    }

    fn legs<'a>(&'a self, legs: &'a [LegId]) -> BoxFuture<'a, Result<LookUp, StoreError>> {
        Box::pin(self.look(None, legs))
    }

    fn meeting(&self, meeting: MeetingId) -> BoxFuture<'_, Result<Vec<StoredLeg>, StoreError>> {
        Box::pin(self.read("reading a meeting", move |session| Box::pin(reads::meeting(session.connection(), meeting))))
    }

    fn live_legs(&self, after: MeetingId, max: u16) -> BoxFuture<'_, Result<Vec<StoredLeg>, StoreError>> {
        Box::pin(
            self.read("listing live legs", move |session| Box::pin(reads::live_legs(session.connection(), after, max))),
        )
    }

    fn contents<'a>(&'a self, legs: &'a [LegId]) -> BoxFuture<'a, Result<Vec<LegContent>, StoreError>> {
        Box::pin(async move {
            let mut asked: HashSet<LegId> = HashSet::with_capacity(legs.len());
            let legs: Vec<LegId> = legs.iter().copied().filter(|leg| asked.insert(*leg)).collect();
            let mut all = Vec::with_capacity(legs.len());
            for legs in legs.chunks(CONTENTS_CHUNK) {
                let legs: Arc<[LegId]> = legs.into();
                let contents = self.read("reading contents", move |session| {
                    let legs = Arc::clone(&legs);
                    Box::pin(async move { reads::contents(session.connection(), &legs).await })
                });
                all.extend(contents.await?);
            }
            Ok(all)
        })
    }

    fn roster<'a>(&'a self, meeting: MeetingId, terminal: &'a Number) -> BoxFuture<'a, Result<Vec<LegId>, StoreError>> {
        let terminal = terminal.clone();
        Box::pin(self.read("reading who has a terminal", move |session| {
            let terminal = terminal.clone();
            Box::pin(async move { reads::roster(session.connection(), meeting, &terminal).await })
        }))
    }

    fn instance(&self, instance: u64) -> BoxFuture<'_, Result<Instance, StoreError>> {
        Box::pin(self.read("reading a client's instance", move |session| {
            Box::pin(reads::instance(session.connection(), instance))
        }))
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
        Box::pin(async {
            self.lines.close().await;
            self.sessions.close().await;
        })
    }
}
