//! What a sink or a server holds of legs, in one form for all of them.

use remeet_protocol::message::{EndCause, MeetingState};
use remeet_protocol::record::Mark;
use remeet_protocol::{BootId, DomainId, Epoch, Handle, Holder, LegId, Record, RecordKey, ServerId};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// A record and the leg's revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Held {
    pub(crate) revision: u64,
    pub(crate) record: Record,
}

/// Records of a leg by key.
pub(crate) type Records = BTreeMap<RecordKey, Held>;

/// A control row of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ControlRow {
    pub(crate) domain: DomainId,
    pub(crate) server: ServerId,
    pub(crate) state: String,
    pub(crate) cause: EndCause,
    pub(crate) epoch: Epoch,
    pub(crate) boot: Option<BootId>,
    pub(crate) handle: Option<Handle>,
    pub(crate) mark: Mark,
    /// Revisions up to which the four groups are complete: information, business, decode, extra.
    pub(crate) group_marks: [u64; 4],
    pub(crate) intent: u64,
    pub(crate) recover_first: bool,
    pub(crate) quarantine: Option<String>,
}

/// A recovery key, its secret only as a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct KeyRow {
    pub(crate) domain: DomainId,
    pub(crate) server: ServerId,
    pub(crate) generation: u64,
    pub(crate) number: String,
    pub(crate) title: String,
    pub(crate) creator: String,
    pub(crate) creator_name: String,
    pub(crate) made_at_ms: u64,
    pub(crate) secret_sha256: String,
}

/// Everything in the database that a comparison needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Database {
    /// The term.
    pub(crate) term: Option<(Epoch, Holder)>,
    pub(crate) legs: BTreeMap<LegId, ControlRow>,
    /// The server's table revision at the last acceptance.
    pub(crate) table_revisions: BTreeMap<LegId, u64>,
    pub(crate) keys: BTreeMap<LegId, KeyRow>,
    pub(crate) records: BTreeMap<LegId, Records>,
    /// Domains that stand in the rows of a leg's records.
    pub(crate) record_domains: BTreeMap<LegId, BTreeSet<i64>>,
    /// Rows of these formats are there; only 1 is known.
    pub(crate) formats: BTreeSet<i64>,
    /// Intents whose result is not stored, for people.
    pub(crate) open_intents: Vec<(LegId, String)>,
    /// Client commands of which more than one intent came: instance and number.
    pub(crate) commands_twice: Vec<(u64, u64)>,
    /// Meetings that have a row.
    pub(crate) meetings: BTreeMap<remeet_protocol::MeetingId, DomainId>,
}

/// A cached leg's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CachedHead {
    pub(crate) domain: DomainId,
    pub(crate) server: ServerId,
    pub(crate) boot: BootId,
    pub(crate) handle: Handle,
    pub(crate) state: MeetingState,
    pub(crate) mark: Mark,
}

/// A cached leg.
#[derive(Debug, Clone)]
pub(crate) struct CachedLeg {
    pub(crate) head: CachedHead,
    pub(crate) epoch: Epoch,
    pub(crate) records: Records,
}

/// A cached key. The cache inside the scheduler holds only generation and secret of it.
#[derive(Debug, Clone)]
pub(crate) struct CachedKey {
    pub(crate) generation: u64,
    pub(crate) epoch: Epoch,
    pub(crate) secret_sha256: String,
    pub(crate) whole: Option<KeyRow>,
}

/// Everything in the cache.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cached {
    pub(crate) legs: BTreeMap<LegId, CachedLeg>,
    pub(crate) keys: BTreeMap<LegId, CachedKey>,
}

/// SHA-256 of a secret, in hexadecimal: secrets are compared, never shown.
pub(crate) fn secret_hash(secret: &[u8]) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}
