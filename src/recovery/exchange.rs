//! What goes into the core and what comes out of it.

use super::Alarm;
use crate::model::StoredLeg;
use crate::session::{Heard, PersistId, Request, Ticket};
use crate::store::{CacheOutcome, CacheStamp, CacheWrite, CachedHead, CachedKey, Instance, LookUp, Outcome, Unit};
use remeet_protocol::message::{ClientAnswer, ClientCommand, EndCause, EventKind, MeetingState};
use remeet_protocol::record::Number;
use remeet_protocol::{Change, DomainId, LegId, MeetingId, ServerId, Token};

/// Names a read to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// Names who waits for a client answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Waiter(pub u64);

/// What a client may do (rule 16), from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// Create and command meetings.
    pub control: bool,
    /// Adopt and end orphans, mark meetings.
    pub operator: bool,
}

/// A client's command with who sent it.
#[derive(Debug, Clone)]
pub struct Command {
    /// Who waits for the answer.
    pub waiter: Waiter,
    /// What the client may do.
    pub rights: Rights,
    /// The command.
    pub command: ClientCommand,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A term began: every leg is to be recovered under this token.
    TermBegan(Token),
    /// A server's session said something.
    Heard(ServerId, Heard),
    /// A persist was carried out (or its compare-and-set lost). The driver repeats a persist until one
    /// of the two is certain.
    Written(PersistId, Outcome),
    /// A read's result; `Err` says why there is none (after the driver's own repeats).
    Read(ReadId, Result<ReadResult, String>),
    /// Cache writes were carried out: (leg, outcome) of each; a failed cache is `Err`.
    Cached(Vec<LegId>, Result<Vec<CacheOutcome>, String>),
    /// A leg's key was not cached: too many cache tasks wait, or the store could not say it.
    Uncached(LegId),
    /// A client commands.
    Command(Command),
    /// Compare everything with this server now, or with every server (operator, periodic).
    Reconcile(Option<ServerId>),
    /// Try a quarantined leg's back-fill again, from the ground. Answered by [`Output::Answer`] once that its
    /// content adds up is stored, or with the reason why it stays quarantined.
    LiftQuarantine(Waiter, LegId),
    /// Show what a round over these servers would do, and do nothing.
    DryRun(Waiter, Vec<ServerId>),
    /// A timer is due.
    Wake,
}

/// A read that the core needs. All are in bulk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// [`crate::store::Store::look_up`].
    LookUp {
        /// Whose legs.
        server: ServerId,
        /// And these.
        legs: Vec<LegId>,
    },
    /// [`crate::store::Store::legs`].
    Legs(Vec<LegId>),
    /// [`crate::store::Store::roster`].
    Roster {
        /// The meeting.
        meeting: MeetingId,
        /// The terminal's number.
        terminal: Number,
    },
    /// [`crate::store::Store::contents`]: only what each leg's mark and rows add up to.
    Digests(Vec<LegId>),
    /// [`crate::store::Store::instance`].
    Instance(u64),
    /// [`crate::store::Cache::keys`].
    CachedKeys(Vec<(DomainId, LegId)>),
    /// [`crate::store::Cache::stamps`].
    Stamps(Vec<(DomainId, LegId)>),
    /// [`crate::store::Cache::names`].
    CachedNames(DomainId),
}

/// The most terminals of a leg that are named for what they lack.
const LACKING_MAX: usize = 8;

/// What a leg's stored rows add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDigest {
    /// The leg.
    pub leg: LegId,
    /// The stored mark.
    pub mark: remeet_protocol::record::Mark,
    /// Rows and digest counted from the rows; its revision is the highest of a row.
    pub rows: remeet_protocol::record::Mark,
    /// Terminals on the roster.
    pub terminals: u32,
    /// Of these: business state known, decode state known, extra information known.
    pub known: [u32; 3],
    /// The leg row is there.
    pub information: bool,
    /// Terminals of which some state is not known: the first few, with what they lack.
    pub lacking: Vec<(Number, &'static str)>,
    /// How many there are.
    pub lacking_total: u32,
}

impl StoredDigest {
    /// Counts the stored rows of a leg.
    #[must_use]
    pub fn count(content: &crate::model::LegContent) -> Self {
        use remeet_protocol::record::{Mark, Record, RecordState};
        let mut rows = Mark::default();
        let mut terminals = 0;
        let mut known = [0; 3];
        let mut information = false;
        let (mut lacking, mut lacking_total) = (Vec::new(), 0);
        for change in &content.changes {
            let RecordState::Present(record) = &change.state else { continue };
            rows.revision = rows.revision.max(change.revision);
            rows.count(record, true);
            match record {
                Record::Leg(_) => information = true,
                Record::Terminal(row) => {
                    terminals += 1;
                    let has = [row.business.is_some(), row.decode.is_some(), row.extra_version.is_some()];
                    for (sum, has) in known.iter_mut().zip(has) {
                        *sum += u32::from(has);
                    }
                    if let Some(what) = lacks(has) {
                        lacking_total += 1;
                        if lacking.len() < LACKING_MAX {
                            lacking.push((row.number.clone(), what));
                        }
                    }
                }
                Record::Window(_) | Record::Entry(_) => {}
            }
        }
        let (leg, mark) = (content.leg, content.mark);
        Self { leg, mark, rows, terminals, known, information, lacking, lacking_total }
    }
}

/// What a terminal lacks that has business, decode and extra state or not.
fn lacks(has: [bool; 3]) -> Option<&'static str> {
    match has {
        [true, true, true] => None,
        [false, true, true] => Some("business state"),
        [true, false, true] => Some("decode state"),
        [true, true, false] => Some("extra information"),
        [false, false, true] => Some("business and decode state"),
        [false, true, false] => Some("business state and extra information"),
        [true, false, false] => Some("decode state and extra information"),
        [false, false, false] => Some("business and decode state and extra information"),
    }
}

/// The answer to a [`Read`].
#[derive(Debug)]
pub enum ReadResult {
    /// To `LookUp` and `Legs`.
    LookUp(LookUp),
    /// To `Roster`.
    Roster(Vec<LegId>),
    /// To `Digests`.
    Digests(Vec<StoredDigest>),
    /// To `Instance`.
    Instance(Instance),
    /// To `CachedKeys`.
    CachedKeys(Vec<CachedKey>),
    /// To `Stamps`.
    Stamps(Vec<CacheStamp>),
    /// To `CachedNames`.
    CachedNames(Vec<LegId>),
}

/// What the cache is to do. Errors of the cache never stop anything.
#[derive(Debug, Clone)]
pub enum CacheTask {
    /// Write status; answered by [`Input::Cached`].
    Write(Box<CacheWrite>),
    /// Read the leg's key and content from the store and cache them whole.
    Refill(CachedHead),
    /// Mirror the leg's key from the store.
    MirrorKey(LegId),
    /// Mirror a key that was just made: no need to read it back.
    PutKey(Box<crate::model::RecoveryKey>),
    /// Forget an ended leg.
    Forget(DomainId, LegId),
    /// Forget the leg if the store has it as ended.
    ForgetEnded(DomainId, LegId),
}

impl CacheTask {
    /// The leg that it is about.
    #[must_use]
    pub fn leg(&self) -> LegId {
        match self {
            CacheTask::Write(write) => write.head.leg,
            CacheTask::Refill(head) => head.leg,
            CacheTask::PutKey(key) => key.leg,
            CacheTask::MirrorKey(leg) | CacheTask::Forget(_, leg) | CacheTask::ForgetEnded(_, leg) => *leg,
        }
    }
}

/// Something for subscribed clients. Told only after its row has committed (rule 15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The leg.
    pub leg: LegId,
    /// What happened.
    pub kind: EventKind,
    /// The meeting's state now.
    pub state: MeetingState,
    /// Why it ended, if it did.
    pub cause: EndCause,
    /// Content revision now.
    pub revision: u64,
    /// The changes.
    pub changes: Vec<Change>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Store a unit. Units of one `lane` are stored in the order given.
    Persist {
        /// Its name.
        id: PersistId,
        /// Keeps units of one leg (or one client instance) in order.
        lane: u64,
        /// What to store.
        unit: Unit,
    },
    /// Ask a server; only after `after` is stored.
    Ask {
        /// The server.
        server: ServerId,
        /// The request's name.
        ticket: Ticket,
        /// The request.
        request: Request,
        /// What must be stored first.
        after: Option<PersistId>,
    },
    /// Events up to `number` are stored.
    Acknowledge {
        /// The server.
        server: ServerId,
        /// The number.
        number: u64,
    },
    /// Read.
    Read {
        /// Its name.
        id: ReadId,
        /// What.
        read: Read,
    },
    /// Have the cache do something.
    Cache(CacheTask),
    /// Answer a client.
    Answer(Waiter, ClientAnswer),
    /// Tell subscribers.
    Publish(Published),
    /// Tell the operator. Of a condition (see [`AlarmKind::stands`](super::AlarmKind::stands)) once, until it changes.
    Alarm(Alarm),
    /// What a round over one server would do, for a dry run; `last` is its last.
    Planned {
        /// Who asked.
        waiter: Waiter,
        /// The plan.
        plan: Box<super::dry_run::ServerPlan>,
        /// No other follows.
        last: bool,
    },
    /// The condition of an earlier alarm is over.
    AlarmOver(Alarm),
    /// A server has admitted a newer token than this term's: see [`super::lease::Lease::evidence`].
    NewerToken {
        /// The server.
        server: ServerId,
        /// The token that it named.
        token: Token,
    },
}

impl Published {
    /// A change of a leg's state, without content.
    #[must_use]
    pub fn state(row: &StoredLeg, kind: EventKind, state: MeetingState) -> Self {
        Self { leg: row.leg, kind, state, cause: row.cause, revision: row.mark.revision, changes: Vec::new() }
    }
}
