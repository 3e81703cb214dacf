//! An empty store of each kind for one test, raw access to its database, and rows to put in.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet::model::{RecoveryKey, StoredLeg, StoredState};
use remeet::store::{
    Accepted, Begun, Candidate, ContentWrite, Expect, NewLeg, Outcome, StateWrite, Store, StoreOptions, Unit, Write,
    open,
};
use remeet_protocol::message::EndCause;
use remeet_protocol::record::{
    Business, Decode, EntryRow, LegRow, Mark, Record, RecordKey, RecordState, TerminalRow, WindowRow,
};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{BootId, Change, DomainId, Epoch, Handle, Holder, LegId, MeetingId, Secret, ServerId, Token};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, SqlitePool};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A store with a migrated, empty database and a term.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) token: Token,
    pub(crate) url: String,
    pub(crate) kind: Kind,
    raw: Raw,
    name: String,
    _dir: TempDir,
}

enum Raw {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// The server for tests, or `None` if they shall run embedded only.
pub(crate) fn postgres_url() -> Option<String> {
    if let Ok(url) = std::env::var("REMEET_TEST_POSTGRES") {
        return Some(url);
    }
    if std::env::var("REMEET_TEST_EMBEDDED_ONLY").as_deref() == Ok("1") {
        println!("skipped: REMEET_TEST_EMBEDDED_ONLY=1 says that there is no PostgreSQL");
        return None;
    }
    panic!("REMEET_TEST_POSTGRES is not set: run scripts/test, or set REMEET_TEST_EMBEDDED_ONLY=1 to do without");
}

/// A URL with another database.
pub(crate) fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url.split_once('?').map_or((url, None), |(a, p)| (a, Some(p)));
    let (base, _) = address.rsplit_once('/').expect("REMEET_TEST_POSTGRES ends with /DATABASE");
    parameters.map_or_else(|| format!("{base}/{name}"), |parameters| format!("{base}/{name}?{parameters}"))
}

impl Fixture {
    /// `None`: skipped.
    pub(crate) async fn new(kind: Kind) -> Option<Self> {
        Self::with(kind, &StoreOptions::default()).await
    }

    pub(crate) async fn with(kind: Kind, options: &StoreOptions) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("store_{}", uuid::Uuid::now_v7().simple());
        let (url, raw) = match kind {
            Kind::Sqlite => {
                let path = dir.path().join("store.db");
                let connect = SqliteConnectOptions::new().filename(&path);
                (format!("sqlite:{}", path.display()), Raw::Sqlite(SqlitePool::connect_lazy_with(connect)))
            }
            Kind::Postgres => {
                let server = postgres_url()?;
                admin(&server, &format!("CREATE DATABASE {name}")).await;
                let url = with_database(&server, &name);
                let pool = PgPoolOptions::new().max_connections(2).connect_lazy(&url).unwrap();
                (url, Raw::Postgres(pool))
            }
        };
        let store = open(&url, options).unwrap();
        store.migrate().await.unwrap();
        let token = begin(&*store, "node").await;
        Some(Self { store, token, url, kind, raw, name, _dir: dir })
    }

    /// Ends the test: closes and drops the database.
    pub(crate) async fn end(self) {
        self.store.close().await;
        if let Raw::Postgres(pool) = &self.raw {
            pool.close().await;
            admin(&postgres_url().unwrap(), &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
        }
    }

    /// Runs SQL beside the store.
    pub(crate) async fn sql(&self, sql: &str) {
        match &self.raw {
            Raw::Sqlite(pool) => drop(pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap()),
            Raw::Postgres(pool) => drop(pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap()),
        }
    }

    /// One number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.raw {
            Raw::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Raw::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        }
    }

    /// One text.
    pub(crate) async fn text(&self, sql: &str) -> String {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.raw {
            Raw::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Raw::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        }
    }

    /// Writes and expects an answer.
    pub(crate) async fn write(&self, units: Vec<Unit>) -> Vec<Outcome> {
        self.store.write(self.token, &units).await.unwrap()
    }

    /// Writes one unit of one write.
    pub(crate) async fn one(&self, write: Write) -> Outcome {
        self.write(vec![Unit::one(write)]).await[0]
    }

    /// A stored leg, in meeting, with version 1 and generation 1.
    pub(crate) async fn leg(&self, n: u32) -> LegId {
        let new = new_leg(n, StoredState::InMeeting);
        let leg = new.row.leg;
        assert_eq!(self.one(Write::NewLeg(Box::new(new))).await, Outcome::Applied { version: 1 });
        leg
    }

    /// The control row, which is there.
    pub(crate) async fn row(&self, leg: LegId) -> StoredLeg {
        let look_up = self.store.legs(&[leg]).await.unwrap();
        assert_eq!(look_up.bad.len(), 0, "{:?}", look_up.bad);
        look_up.found.into_iter().next().unwrap().row
    }

    /// The stored records in the order of their keys, with the mark.
    pub(crate) async fn content(&self, leg: LegId) -> (Mark, Vec<Change>) {
        let mut contents = self.store.contents(&[leg]).await.unwrap();
        assert_eq!(contents.len(), 1);
        let mut content = contents.remove(0);
        content.changes.sort_by_key(Change::key);
        (content.mark, content.changes)
    }
}

/// How long the tests' leases last: longer than any test.
pub(crate) const LEASE: Duration = Duration::from_secs(600);

pub(crate) fn candidate(node: &str) -> Candidate<'_> {
    Candidate { node, holder: Holder(uuid::Uuid::now_v7()), lease: LEASE, epoch_above: Epoch(0) }
}

/// Begins a term that is granted: no other node's lease stands.
pub(crate) async fn begin(store: &dyn Store, node: &str) -> Token {
    granted(store.begin_term(candidate(node)).await.unwrap())
}

pub(crate) fn granted(begun: Begun) -> Token {
    match begun {
        Begun::Granted(token) => token,
        Begun::Held(standing) => panic!("held: {standing:?}"),
    }
}

async fn admin(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.expect("REMEET_TEST_POSTGRES answers");
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    connection.close().await.unwrap();
}

/// Leg 0 of the nth meeting. Ids ascend with `n`.
pub(crate) fn leg_id(n: u32) -> LegId {
    LegId {
        meeting: MeetingId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n))),
        leg: 0,
    }
}

pub(crate) fn new_leg(n: u32, state: StoredState) -> NewLeg {
    let leg = leg_id(n);
    let key = RecoveryKey {
        leg,
        domain: DomainId(7),
        server: ServerId(1),
        secret: Secret::new([u8::try_from(n % 251).unwrap(); 16]),
        generation: 1,
        number: Text::cut(&format!("9{n}")),
        title: Text::cut(&format!("Meeting {n}")),
        creator: Text::cut("100"),
        creator_name: Text::cut("Ada"),
        made_at_ms: 1_700_000_000_000,
    };
    let row = StoredLeg::new(&key, state);
    NewLeg { row, key }
}

pub(crate) fn boot(n: u8) -> BootId {
    BootId::from_bytes([n; 16])
}

/// An acceptance by the server's life `n`.
pub(crate) fn accepted(token: Token, n: u8, content_reset: bool) -> Accepted {
    Accepted { epoch: token.epoch, boot: boot(n), handle: Handle(u64::from(n)), table_revision: 40, content_reset }
}

/// From one state at a version to another.
pub(crate) fn state(leg: LegId, version: u64, from: StoredState, to: StoredState) -> Write {
    Write::State(StateWrite {
        leg,
        expect: Expect { version, state: from },
        state: to,
        cause: EndCause::None,
        accepted: None,
    })
}

/// A takeover.
pub(crate) fn takeover(leg: LegId, version: u64, accepted: Accepted) -> Write {
    Write::State(StateWrite {
        leg,
        expect: Expect { version, state: StoredState::InMeeting },
        state: StoredState::InMeeting,
        cause: EndCause::None,
        accepted: Some(accepted),
    })
}

pub(crate) fn content(leg: LegId, changes: Vec<Change>, mark: Option<Mark>, full: bool) -> Write {
    Write::Content(ContentWrite { leg, domain: DomainId(7), changes, base: 0, mark, full })
}

/// The mark of just these present records.
pub(crate) fn mark_of(revision: u64, changes: &[Change]) -> Mark {
    let mut mark = Mark { revision, ..Mark::default() };
    for change in changes {
        if let RecordState::Present(record) = &change.state {
            mark.count(record, true);
        }
    }
    mark
}

pub(crate) fn present(revision: u64, record: Record) -> Change {
    Change { revision, state: RecordState::Present(record) }
}

pub(crate) fn removed(revision: u64, key: RecordKey) -> Change {
    Change { revision, state: RecordState::Removed(key) }
}

pub(crate) fn info(title: &str) -> Record {
    Record::Leg(LegRow {
        number: Text::cut("91"),
        title: Text::cut(title),
        creator: Text::cut("100"),
        creator_name: Text::cut("Ada"),
        chair: Text::cut("100"),
        first_speaker: Text::cut(""),
        second_speaker: Text::cut("102"),
        started_at_ms: 1_700_000_000_123,
    })
}

pub(crate) fn terminal(number: &str, name: &str) -> Record {
    Record::Terminal(TerminalRow {
        number: Text::cut(number),
        home_domain: DomainId(7),
        name: Text::cut(name),
        online: true,
        in_meeting: true,
        joined_at_ms: 5,
        left_at_ms: 0,
        left_because: 0.into(),
        business: Some(Business {
            state: 2.into(),
            since_ms: 77,
            sends_main: true,
            sends_auxiliary: false,
            resolution: 3.into(),
        }),
        decode: Some(Decode { display_mode: 1.into(), output: Text::cut("1"), codec: 2.into() }),
        extra_version: Some(4),
    })
}

pub(crate) fn window(number: &str, window: u8, errors: u32) -> Record {
    Record::Window(WindowRow {
        terminal: Text::cut(number),
        window,
        source: Text::cut("101"),
        channel: 1,
        video: true,
        audio: false,
        codec: 3.into(),
        errors,
    })
}

pub(crate) fn entry(number: &str, key: &str, value: &[u8]) -> Record {
    Record::Entry(EntryRow {
        terminal: Text::cut(number),
        key: Text::cut(key),
        value: Blob::new(value.to_vec()).unwrap(),
    })
}

/// A seeded random source; the seed is printed and taken from `REMEET_TEST_SEED`.
pub(crate) fn seeded() -> ChaCha8Rng {
    let seed = std::env::var("REMEET_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::rng().random());
    println!("REMEET_TEST_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}
