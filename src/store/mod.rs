//! The durable [`Store`] (Postgres; SQLite embedded) and the [`Cache`] (Redis; in-process embedded).
//!
//! # What the store promises
//!
//! - **Durable on return.** [`Store::write`] answers after the commit. What a crash leaves behind is
//!   always a whole number of units.
//! - **Fenced.** Every statement that writes meeting data checks the term (epoch, holder) in itself
//!   (rule 4): after another term has begun every write answers [`StoreError::Fenced`] and changes
//!   nothing.
//! - **Compare and set.** A unit whose [`Expect`] does not fit the row is [`Outcome::Lost`]: nothing of
//!   that unit is written; the other units of the batch are.
//! - **Bounded.** Every call has a deadline; a connection on which a call timed out is not used again.
//! - **Unknown is said.** When a commit's outcome is unknown the answer is [`StoreError::Unknown`]; the
//!   caller then asks [`Store::settle`], a write that raises the rows' versions, so that the late
//!   commit loses, and says what stands (rule 12).
//! - "Not there" is an `Option` or an absent item, never an error.

mod failing;
mod fault;
#[cfg(test)]
pub(crate) mod fixture;
mod judge;
mod lease;
pub mod memory;
mod merge;
mod open;
mod open_cache;
mod postgres;
mod reads;
mod records;
pub mod redis;
mod rows;
mod schema;
mod settle;
mod sqlite;
mod text;
mod values;
mod write;

pub use failing::{Call, FailingStore, Failure};
pub use lease::{Begun, Candidate, Standing};
pub use open::{StoreOptions, open};
pub use open_cache::{CacheLimits, open_cache, open_cache_with};
pub use schema::{Migrated, MigrationStanding, Schema};
pub use settle::RAISE;
pub use write::{Accepted, ContentWrite, Expect, NewLeg, Outcome, StateWrite, Unit, Write};

use crate::model::{ClientAnswerRow, Intent, LegContent, RecoveryKey, StoredLeg};
use futures_util::future::BoxFuture;
use remeet_protocol::message::MeetingState;
use remeet_protocol::record::{Mark, Number, RecordKey};
use remeet_protocol::{BootId, Change, DomainId, Epoch, Handle, LegId, MeetingId, Secret, ServerId, Token};
use std::time::Duration;

/// Answers to clients' commands that are kept of an instance (design §3).
pub const ANSWERS_KEPT: usize = 256;

/// The most legs that one reading statement takes or answers.
const LEGS_CHUNK: usize = 10_000;
/// The most legs whose content one transaction reads: at 200 records a leg 400,000 rows, well within the deadline.
const CONTENTS_CHUNK: usize = 2_000;

/// Why the store did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another term has begun: this process commands no more.
    #[error("term {token} is over, another has begun: this process must stop commanding")]
    Fenced {
        /// The token that was refused.
        token: Token,
    },
    /// Not done, and certainly not: try again. Covers a store that is down, starting, read-only, slow.
    #[error("{doing}: the store is unavailable: {reason}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What the store or the network said.
        reason: String,
    },
    /// The commit was sent and its answer was lost: see [`Store::settle`].
    #[error("{doing}: the commit's outcome is unknown: {reason}")]
    Unknown {
        /// What was being done.
        doing: &'static str,
        /// What the store or the network said.
        reason: String,
    },
    /// A row or a schema that this version cannot read; trying again does not help.
    #[error("{doing}: {reason}")]
    Broken {
        /// What was being done.
        doing: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// Why the cache did not do what was asked. Whatever it is, it counts as a miss.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: the cache is unavailable: {reason}")]
pub struct CacheError {
    /// What was being done.
    pub doing: &'static str,
    /// What the cache or the network said.
    pub reason: String,
}

/// What a look-up found of one leg.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its control row.
    pub row: StoredLeg,
    /// Its recovery key; `None` if only the row was asked for or the key is missing.
    pub key: Option<RecoveryKey>,
    /// Its open intents, in ascending order.
    pub open: Vec<Intent>,
}

/// A row that could not be read: quarantined and shown, never fatal for the others.
#[derive(Debug, Clone)]
pub struct BadRow {
    /// The leg, as far as it could be read.
    pub leg: String,
    /// What was wrong.
    pub reason: String,
}

/// What a look-up found.
#[derive(Debug, Clone, Default)]
pub struct LookUp {
    /// The legs.
    pub found: Vec<Found>,
    /// Rows that could not be read: control row, key or an open intent. Such a leg is not among `found`, and it is
    /// no orphan: nothing may be concluded of it.
    pub bad: Vec<BadRow>,
}

/// One life of a client's memory of its commands, as kept.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    /// Kept answers, in ascending order of number; at most 256.
    pub answers: Vec<ClientAnswerRow>,
    /// The highest number whose answer was pruned: this and lower ones are `too old`.
    pub pruned: u64,
    /// Numbers of this instance that have an open intent, with its leg and intent number.
    pub open: Vec<(u64, LegId, u64)>,
}

/// The durable store.
pub trait Store: Send + Sync + 'static {
    /// Brings the schema up to date, and says what that took. Additive: the release before runs on it too. Waits for
    /// writers only briefly, and is then [`StoreError::Unavailable`]: ask again.
    fn migrate(&self) -> BoxFuture<'_, Result<Schema, StoreError>>;

    /// How the schema stands. Changes nothing.
    fn schema(&self) -> BoxFuture<'_, Result<Schema, StoreError>>;

    /// Begins the next term: epoch + 1 for the candidate's holder (rule 1), with its lease. Granted if no term
    /// stands, if its lease has run out or was released, or if it is of the candidate's own node, so that a restart
    /// does not wait for its own dead lease. Every older term is fenced on return, and one whose writers keep the
    /// term locked loses its sessions; while another node's lease stands nobody is disturbed.
    fn begin_term<'a>(&'a self, candidate: Candidate<'a>) -> BoxFuture<'a, Result<Begun, StoreError>>;

    /// The current term with its lease, if one has ever begun.
    fn standing(&self) -> BoxFuture<'_, Result<Option<Standing>, StoreError>>;

    /// The lease of `token` lasts for another `lease` from now, also if it has run out and nobody has taken over.
    /// [`StoreError::Fenced`] if another term stands, or if this one has released its lease. Waits for no writer of
    /// meeting data, and at most a quarter of `lease`.
    fn renew(&self, token: Token, lease: Duration) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The lease of `token` ends now, for good; who waits in [`Store::released`] is told. Its term stands until
    /// another begins. Again does nothing; [`StoreError::Fenced`] if another term stands.
    fn release(&self, token: Token) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Waits for the lease that stands: returns when it was released or has run out, or after `at_most`. It is only
    /// a hint when to ask [`Store::begin_term`] again; what fails counts as "after `at_most`".
    fn released(&self, at_most: Duration) -> BoxFuture<'_, ()>;

    /// Every leg stored under `server` that is not ended, and the named `legs` whatever their state and
    /// server; each with its recovery key and open intents. In bulk: a bounded number of statements,
    /// however many legs.
    fn look_up<'a>(&'a self, server: ServerId, legs: &'a [LegId]) -> BoxFuture<'a, Result<LookUp, StoreError>>;

    /// The named legs only, each with its recovery key and open intents.
    fn legs<'a>(&'a self, legs: &'a [LegId]) -> BoxFuture<'a, Result<LookUp, StoreError>>;

    /// The legs of a meeting, in ascending order. One that cannot be read is named in the log and left out.
    fn meeting(&self, meeting: MeetingId) -> BoxFuture<'_, Result<Vec<StoredLeg>, StoreError>>;

    /// Legs that are not ended, of meetings with an id above `after`, in ascending order; at most `max`. The end of
    /// the page cuts no meeting, unless that one alone has more legs. Ends with an empty page.
    fn live_legs(&self, after: MeetingId, max: u16) -> BoxFuture<'_, Result<Vec<StoredLeg>, StoreError>>;

    /// Content of legs, each leg's mark and records from one snapshot. An unknown leg is absent. A leg with a record
    /// that cannot be read comes without that record and with a mark of zero, so that everything is pulled anew.
    fn contents<'a>(&'a self, legs: &'a [LegId]) -> BoxFuture<'a, Result<Vec<LegContent>, StoreError>>;

    /// Legs of a meeting on whose stored roster the terminal is, in ascending order, ended ones included.
    fn roster<'a>(&'a self, meeting: MeetingId, terminal: &'a Number) -> BoxFuture<'a, Result<Vec<LegId>, StoreError>>;

    /// What is kept of a client's instance.
    fn instance(&self, instance: u64) -> BoxFuture<'_, Result<Instance, StoreError>>;

    /// Writes units, many in one transaction. One outcome a unit, in order.
    ///
    /// Units are applied as if one after the other; a unit with several writes is atomic. Large calls are several
    /// transactions; if a later one fails after an earlier one was committed, the answer is
    /// [`StoreError::Unknown`], and [`Store::settle`] tells which units stand.
    fn write<'a>(&'a self, token: Token, units: &'a [Unit]) -> BoxFuture<'a, Result<Vec<Outcome>, StoreError>>;

    /// After [`StoreError::Unknown`]: raises the version of every row the units touch, under the term,
    /// by more than the units could, and says of each unit whether it stands (`Applied`) or not (`Lost`, and it
    /// never will): what compares a version loses, and the session that wrote the rest is ended.
    /// Outcomes carry the new version.
    fn settle<'a>(&'a self, token: Token, units: &'a [Unit]) -> BoxFuture<'a, Result<Vec<Outcome>, StoreError>>;

    /// Deletes client answers older than `older_than` and of the least recent instances beyond `instances_max`, and
    /// intents that have been done for longer than `older_than`; their numbers stay taken. In bounded batches, at
    /// most so many a call; what is left goes with the next. Returns how many answers and intents.
    fn prune_answers(
        &self,
        token: Token,
        older_than: Duration,
        instances_max: u32,
    ) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Closes every connection.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A cached recovery key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedKey {
    /// The leg.
    pub leg: LegId,
    /// The secret.
    pub secret: Secret,
    /// The key's generation.
    pub generation: u64,
    /// The term that wrote it.
    pub epoch: Epoch,
}

/// What the cache holds of a leg, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStamp {
    /// Generation of the cached key; `None` if there is none.
    pub generation: Option<u64>,
    /// Up to where the cached content goes; `None` if there is none.
    pub mark: Option<Mark>,
    /// The boot id and handle that the cached content belongs to.
    pub place: Option<(BootId, Handle)>,
    /// The cached state.
    pub state: Option<MeetingState>,
}

/// The head of a cached leg: meeting information that is not a record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CachedHead {
    /// The leg.
    pub leg: LegId,
    /// Its domain.
    pub domain: DomainId,
    /// Its server.
    pub server: ServerId,
    /// The life of the server's table.
    pub boot: BootId,
    /// The server's name of it.
    pub handle: Handle,
    /// The meeting's state.
    pub state: MeetingState,
    /// The term that wrote it.
    pub epoch: Epoch,
}

/// A write of one leg's cached status. Loses against a higher (epoch, revision), atomically (rule 4).
#[derive(Debug, Clone)]
pub struct CacheWrite {
    /// The head, replaced as a whole.
    pub head: CachedHead,
    /// `Some(revision)`: `changes` apply to cached content of just this revision (else
    /// [`CacheOutcome::Stale`], nothing written). `None`: `changes` are the whole content.
    pub base: Option<u64>,
    /// The content's mark after this write.
    pub mark: Mark,
    /// Records present, and keys removed.
    pub changes: Vec<Change>,
}

/// What became of a cache write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOutcome {
    /// Written, or the same already.
    Applied,
    /// The cached content is of another revision (or absent): refill it whole.
    Stale,
    /// A higher (epoch, revision) stands.
    Lost,
}

/// Everything cached of one leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedLeg {
    /// The head.
    pub head: CachedHead,
    /// Up to where the content goes.
    pub mark: Mark,
    /// The records, in ascending order of key.
    pub changes: Vec<Change>,
}

/// Everything that a cache holds.
#[derive(Debug, Clone, Default)]
pub struct CacheDump {
    /// Status, a leg each.
    pub legs: Vec<CachedLeg>,
    /// Keys.
    pub keys: Vec<CachedKey>,
}

/// The cache. Nothing in it is trusted after a restart; every error counts as a miss.
pub trait Cache: Send + Sync + 'static {
    /// Mirrors keys; a lower (epoch, generation) loses, atomically.
    fn put_keys<'a>(&'a self, epoch: Epoch, keys: &'a [RecoveryKey]) -> BoxFuture<'a, Result<(), CacheError>>;

    /// Keys of legs, in one pipeline; what is not cached is absent. `domain` is part of the cache's names.
    fn keys<'a>(&'a self, legs: &'a [(DomainId, LegId)]) -> BoxFuture<'a, Result<Vec<CachedKey>, CacheError>>;

    /// Stamps of legs, in one pipeline; one for each leg, in order.
    fn stamps<'a>(&'a self, legs: &'a [(DomainId, LegId)]) -> BoxFuture<'a, Result<Vec<CacheStamp>, CacheError>>;

    /// Writes status, in one pipeline; one outcome a write, in order.
    fn write<'a>(&'a self, writes: &'a [CacheWrite]) -> BoxFuture<'a, Result<Vec<CacheOutcome>, CacheError>>;

    /// Cached status of legs; what is not cached is absent.
    fn contents<'a>(&'a self, legs: &'a [(DomainId, LegId)]) -> BoxFuture<'a, Result<Vec<CachedLeg>, CacheError>>;

    /// Forgets ended legs: key and status, unless a higher epoch wrote them.
    fn forget<'a>(&'a self, epoch: Epoch, legs: &'a [(DomainId, LegId)]) -> BoxFuture<'a, Result<(), CacheError>>;

    /// Deletes keys only: tests and the demo make misses with it.
    fn forget_keys<'a>(&'a self, legs: &'a [(DomainId, LegId)]) -> BoxFuture<'a, Result<(), CacheError>>;

    /// Legs of a domain of which a key or a status is cached, at most `max`, in no order that means anything.
    fn names(&self, domain: DomainId, max: usize) -> BoxFuture<'_, Result<Vec<LegId>, CacheError>>;

    /// Every cached leg (at most `max`): for the embedded cache, which nobody else can read.
    fn dump(&self, max: usize) -> BoxFuture<'_, Result<CacheDump, CacheError>>;
}

/// The record keys that `changes` leave present: what a full pull keeps.
pub fn present_keys(changes: &[Change]) -> std::collections::BTreeSet<RecordKey> {
    changes
        .iter()
        .filter(|change| matches!(change.state, remeet_protocol::record::RecordState::Present(_)))
        .map(Change::key)
        .collect()
}
