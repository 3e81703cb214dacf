//! The status report: what `remeet status` shows and `--json` prints raw.
//!
//! The scheduler fills a [`Status`]; this module knows nothing of how. A field that is not known yet is
//! `None` or 0. Times are milliseconds since 1970 UTC.

mod print;

pub use print::print;

use crate::recovery::lease::LeaseView;
use remeet_protocol::{BootId, DomainId, Epoch, Holder, ServerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The scheduler's name.
    pub name: String,
    /// Its domain.
    pub domain: DomainId,
    /// Its node id.
    pub node: String,
    /// When the report was made.
    pub at_ms: u64,
    /// When the process started.
    pub started_at_ms: u64,
    /// What it is doing.
    pub phase: Phase,
    /// Since when.
    pub phase_since_ms: u64,
    /// Its term, once it has one.
    pub term: Option<Term>,
    /// Whether it may command, and for how long; or who holds the term.
    pub lease: LeaseView,
    /// The autonomous servers, in order of id.
    pub servers: Vec<ServerStatus>,
    /// Sums over the servers.
    pub totals: LegCounts,
    /// The last round of each trigger.
    pub rounds: Vec<RoundReport>,
    /// The durable store.
    pub store: SinkHealth,
    /// The cache.
    pub cache: SinkHealth,
    /// Meeting clients.
    pub clients: ClientsStatus,
    /// What an operator should know, oldest first.
    pub alarms: Alarms,
    /// Everything that is counted, by name.
    pub counters: BTreeMap<String, u64>,
}

/// What the scheduler is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading its configuration, opening ports.
    Starting,
    /// Another node holds the term; this one takes over when that ends.
    Standby,
    /// The database does not answer; it keeps asking.
    WaitingForDatabase,
    /// Taking meetings over.
    Recovering,
    /// Everything that answers is in control.
    Steady,
    /// Ending its work.
    Stopping,
}

impl Phase {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Standby => "standby",
            Phase::WaitingForDatabase => "waiting for the database",
            Phase::Recovering => "recovering",
            Phase::Steady => "steady",
            Phase::Stopping => "stopping",
        }
    }
}

/// A term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// Its number.
    pub epoch: Epoch,
    /// The process life that holds it.
    pub holder: Holder,
    /// When it began.
    pub since_ms: u64,
}

/// One autonomous server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its id.
    pub id: ServerId,
    /// Its name.
    pub name: String,
    /// Where it is dialled.
    pub address: Option<SocketAddr>,
    /// The server that relays for it, if it is not dialled.
    #[serde(default)]
    pub under: Option<ServerId>,
    /// Its link.
    pub link: LinkState,
    /// Since when.
    pub link_since_ms: u64,
    /// The life of its table, once known.
    pub boot: Option<BootId>,
    /// Its table's revision.
    pub table_revision: u64,
    /// Its legs.
    pub legs: LegCounts,
    /// Requests that wait to be sent or answered.
    pub queues: Queues,
    /// How often it broke the protocol, by kind.
    pub misbehaviour: BTreeMap<String, u64>,
    /// The last thing that went wrong with it.
    pub last_error: Option<String>,
}

/// State of a server's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// Being dialled.
    Dialling,
    /// Connected; not attached yet.
    Up,
    /// Connected and in control.
    Attached,
    /// Not connected; dialled again after a pause.
    Down,
    /// Kept apart because it broke the protocol.
    Quarantined,
}

impl LinkState {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LinkState::Dialling => "dialling",
            LinkState::Up => "up",
            LinkState::Attached => "attached",
            LinkState::Down => "down",
            LinkState::Quarantined => "quarantined",
        }
    }
}

/// Counts of legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LegCounts {
    /// Reported live by the server.
    pub live: u64,
    /// Commanded under this term.
    pub in_meeting: u64,
    /// Being taken over.
    pub recovering: u64,
    /// Live without a recovery key.
    pub orphans: u64,
    /// Not recovered yet, with a reason.
    pub pending: u64,
    /// Commanded, their back-fill kept apart.
    pub quarantined: u64,
}

impl LegCounts {
    /// Adds `other`'s counts.
    pub fn add(&mut self, other: &LegCounts) {
        self.live += other.live;
        self.in_meeting += other.in_meeting;
        self.recovering += other.recovering;
        self.orphans += other.orphans;
        self.pending += other.pending;
        self.quarantined += other.quarantined;
    }
}

/// Lengths of a server's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Queues {
    /// Takeovers.
    pub takeovers: u64,
    /// Commands.
    pub commands: u64,
    /// Pulls.
    pub pulls: u64,
    /// Events stored, not acknowledged.
    pub events: u64,
}

impl Queues {
    /// All together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.takeovers + self.commands + self.pulls + self.events
    }
}

/// What began a round (design §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A term began.
    Restart,
    /// A link came back within a term.
    LinkRestored,
    /// An operator asked, the server lost events, or the periodic comparison.
    Reconcile,
}

impl Trigger {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Restart => "restart",
            Trigger::LinkRestored => "link restored",
            Trigger::Reconcile => "reconcile",
        }
    }
}

/// What a round of recovery came to. `meetings_live` = recovered + orphans + pending + ended (rule 6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// What began it.
    pub trigger: Trigger,
    /// When it began.
    pub began_at_ms: u64,
    /// When it ended; none while it runs.
    pub ended_at_ms: Option<u64>,
    /// The term.
    pub epoch: Epoch,
    /// The servers that it covered.
    pub servers: Vec<ServerId>,
    /// Legs reported live.
    pub meetings_live: u64,
    /// Taken over.
    pub recovered: u64,
    /// Live without a key.
    pub orphans: u64,
    /// Stored as live, gone.
    pub vanished: u64,
    /// Reported live, ended meanwhile.
    pub ended: u64,
    /// Not recovered yet: sum of `pending_by_reason`.
    pub pending: u64,
    /// Why: unreachable, busy, conflict, unclear, quarantined.
    pub pending_by_reason: BTreeMap<String, u64>,
    /// Recovery keys that the database served.
    pub keys_from_database: u64,
    /// Recovery keys that the cache served.
    pub keys_from_cache: u64,
    /// From the trigger to the last acceptance.
    pub in_control_ms: Option<u64>,
    /// From the trigger to the last back-fill write.
    pub backfilled_ms: Option<u64>,
    /// When the last leg was accepted.
    pub in_control_at_ms: Option<u64>,
    /// When all but one leg in a hundred had been.
    #[serde(default)]
    pub in_control_p99_at_ms: Option<u64>,
    /// When the last back-fill was written.
    pub backfilled_at_ms: Option<u64>,
    /// How complete the back-fill is.
    pub completeness: Completeness,
    /// Meetings whose content was brought up to date or compared: what the percentage of meeting information is of.
    #[serde(default)]
    pub contents: u64,
    /// Of these: read back from the store and counted, with their terminals. The others' marks were their servers'.
    #[serde(default)]
    pub read_back: u64,
    /// Meetings and terminals that lack something, by name; at most [`MISSING_MAX`].
    pub missing: Vec<String>,
    /// How many they are.
    #[serde(default)]
    pub missing_total: u64,
}

pub use crate::recovery::report::MISSING_MAX;

/// Percent of each group that is stored (rule 14), 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Completeness {
    /// Meeting information.
    pub meeting: f64,
    /// Business state of terminals.
    pub business: f64,
    /// Decode state of terminals.
    pub decode: f64,
    /// Extra information of terminals.
    pub extra: f64,
}

impl Completeness {
    /// The least of the four.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.meeting.min(self.business).min(self.decode).min(self.extra)
    }
}

/// How the store or the cache is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkHealth {
    /// What it is, without secrets: [`SecretUrl::shown`](crate::config::SecretUrl::shown).
    pub what: String,
    /// Whether the last call worked.
    pub healthy: bool,
    /// Since when.
    pub since_ms: u64,
    /// Writes that wait.
    pub waiting: u64,
    /// Since when none has, if none does.
    #[serde(default)]
    pub idle_since_ms: Option<u64>,
    /// The last error.
    pub last_error: Option<String>,
}

/// Meeting clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientsStatus {
    /// Where they are let in.
    pub listen: SocketAddr,
    /// Connected now.
    pub connected: u64,
    /// Subscribed now.
    pub subscribed: u64,
}

/// An alarm: also an error in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// When it was raised first.
    pub at_ms: u64,
    /// When it was raised last.
    pub last_ms: u64,
    /// How often.
    pub count: u64,
    /// Its kind, such as `conflict`.
    pub kind: String,
    /// What happened, where, what to do.
    pub text: String,
    /// When the condition was over, if it is.
    #[serde(default)]
    pub ended_ms: Option<u64>,
}

/// The most alarms that are kept: a night's worth for a person to read.
pub const ALARMS_MAX: usize = 100;

/// What an alarm is about: its text; of a misbehaviour the server and its kind, since every broken packet has
/// other numbers, and one server must not push everything else out.
fn about<'a>(kind: &str, text: &'a str) -> &'a str {
    let colon = text.match_indices(": ").nth(1).filter(|_| kind == "misbehaviour");
    colon.map_or(text, |(place, _)| &text[..place])
}

/// The newest [`ALARMS_MAX`] alarms, the one raised last at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Alarms(VecDeque<Alarm>);

impl Alarms {
    /// Raises an alarm; the same kind about the same again only counts, with its latest text. How often that
    /// is now.
    pub fn raise(&mut self, at_ms: u64, kind: &str, text: &str) -> u64 {
        let before =
            self.0.iter().position(|alarm| alarm.kind == kind && about(kind, &alarm.text) == about(kind, text));
        let alarm = match before.and_then(|place| self.0.remove(place)) {
            Some(again) => Alarm {
                last_ms: at_ms,
                count: again.count.saturating_add(1),
                text: text.to_owned(),
                ended_ms: None,
                ..again
            },
            None => {
                let (kind, text) = (kind.to_owned(), text.to_owned());
                Alarm { at_ms, last_ms: at_ms, count: 1, kind, text, ended_ms: None }
            }
        };
        if self.0.len() == ALARMS_MAX {
            // One that is over goes first.
            let over = self.0.iter().position(|alarm| alarm.ended_ms.is_some()).unwrap_or(0);
            self.0.remove(over);
        }
        let count = alarm.count;
        self.0.push_back(alarm);
        count
    }

    /// The condition of an alarm is over.
    pub fn end(&mut self, at_ms: u64, kind: &str, text: &str) {
        let same = |alarm: &&mut Alarm| alarm.kind == kind && about(kind, &alarm.text) == about(kind, text);
        let alarm = self.0.iter_mut().find(same);
        if let Some(alarm) = alarm {
            alarm.ended_ms = Some(at_ms);
        }
    }

    /// How many are not known to be over.
    #[must_use]
    pub fn standing(&self) -> usize {
        self.0.iter().filter(|alarm| alarm.ended_ms.is_none()).count()
    }

    /// The alarms, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Alarm> {
        self.0.iter()
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
