//! What the core knows of one server.

use super::Settings;
use super::report::{RoundReport, Trigger};
use super::round::Round;
use super::unacknowledged::Unacknowledged;
use crate::model::Moment;
use remeet_protocol::message::{Event, InventoryEntry};
use remeet_protocol::{BootId, DomainId, Handle, LegId, ServerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The longest pause that a busy server may ask for: a lying one must not keep its meetings from recovery.
const BUSY_MAX: Duration = Duration::from_secs(60);

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    pub id: ServerId,
    pub domain: DomainId,
    /// The handshake is done.
    pub up: bool,
    /// Attached with this term's token on the present connection: (boot id, table revision).
    pub attached: Option<(BootId, u64)>,
    /// Its legs, as stored, have been read in this term: memory holds every one that is not ended.
    pub looked_up: bool,
    /// A first pass of this term has ended: from now on keys come from the cache (rule 10).
    pub first_pass_done: bool,
    /// The round under way; at most one.
    pub round: Option<Round>,
    /// It is among those whose first look-up waits.
    pub wants_look_up: bool,
    /// It is among those whose claims wait.
    pub wants_claims: bool,
    /// Another round was asked for while one ran.
    pub again: Option<Trigger>,
    /// Rounds in a row that left something undone.
    pub setbacks: u32,
    /// It asked, when it was busy, not to be asked again before this.
    pub busy_until: Moment,
    /// When a failed round is begun anew.
    pub retry_at: Option<(Moment, Trigger)>,
    /// Legs stored under the server that are in memory.
    pub legs: BTreeSet<LegId>,
    /// Live legs without a key, by handle; bounded by `Settings::orphans_per_server`.
    pub orphans: BTreeMap<Handle, InventoryEntry>,
    /// Legs in trouble from the last round, with the reason.
    pub pending: BTreeMap<LegId, &'static str>,
    /// Events heard and not acknowledged.
    pub unacknowledged: Unacknowledged,
    /// Last numbers of gaps that no round has closed; a gap a connection at most.
    pub gaps: Vec<u64>,
    /// Events of legs that are not in memory, while a round's look-up may bring them.
    pub strangers: Vec<Event>,
    /// The boot id of the last connection: event numbers belong to it.
    pub last_boot: Option<BootId>,
    /// Legs that wait to be pulled, in order.
    pub pulls: VecDeque<LegId>,
    /// Pulls under way.
    pub pulling: usize,
    /// Pulls whose last rows are on their way to the store, also those of an earlier connection.
    pub storing_pulls: usize,
    /// The last round of each trigger.
    pub reports: BTreeMap<Trigger, RoundReport>,
    /// Why the last round failed or the link is down.
    pub trouble: Option<String>,
    /// How often the server broke the protocol.
    pub misbehaved: u64,
}

/// What `remeet status` shows of a server.
#[derive(Debug, Clone, Serialize)]
pub struct ServerView {
    /// The server.
    pub id: ServerId,
    /// The handshake is done.
    pub up: bool,
    /// Attached with this term's token.
    pub attached: bool,
    /// The life of its table.
    pub boot: Option<BootId>,
    /// Its table revision at the attach.
    pub table_revision: u64,
    /// What its round awaits, if one runs.
    pub round: Option<&'static str>,
    /// Legs in memory.
    pub legs: u64,
    /// Of these in meeting under this term.
    pub in_meeting: u64,
    /// Of these not in control.
    pub recovering: u64,
    /// In control, and their stored content is being brought up to date.
    pub backfilling: u64,
    /// Orphans.
    pub orphans: u64,
    /// Legs in trouble, by reason.
    pub pending: BTreeMap<&'static str, u64>,
    /// Legs whose back-fill is quarantined.
    pub quarantined: u64,
    /// How often it broke the protocol.
    pub misbehaved: u64,
    /// Why the last round failed or the link is down.
    pub trouble: Option<String>,
    /// The last round of each trigger.
    pub reports: BTreeMap<Trigger, RoundReport>,
}

impl Server {
    pub(super) fn new(id: ServerId, domain: DomainId) -> Self {
        Self {
            id,
            domain,
            up: false,
            attached: None,
            looked_up: false,
            first_pass_done: false,
            round: None,
            wants_look_up: false,
            wants_claims: false,
            again: None,
            setbacks: 0,
            busy_until: Moment::default(),
            retry_at: None,
            legs: BTreeSet::new(),
            orphans: BTreeMap::new(),
            pending: BTreeMap::new(),
            unacknowledged: Unacknowledged::default(),
            gaps: Vec::new(),
            strangers: Vec::new(),
            last_boot: None,
            pulls: VecDeque::new(),
            pulling: 0,
            storing_pulls: 0,
            reports: BTreeMap::new(),
            trouble: Some("not connected yet".to_owned()),
            misbehaved: 0,
        }
    }

    /// Another round left something undone: the pause before the next, twice as long each time.
    pub(super) fn setback(&mut self, settings: &Settings) -> Duration {
        let pause = (settings.round_retry * 2u32.pow(self.setbacks.min(16))).min(settings.round_retry_max);
        self.setbacks += 1;
        pause
    }

    /// The server cannot take legs over now and says for how long (SPEC M-6).
    pub(super) fn is_busy(&mut self, now: Moment, retry_after_ms: u32) {
        let pause = Duration::from_millis(retry_after_ms.into()).min(BUSY_MAX);
        self.busy_until = self.busy_until.max(now + pause);
    }
}
