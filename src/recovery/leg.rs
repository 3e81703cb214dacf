//! What the core knows of one leg.

use super::Waiter;
use super::commands::Waiting;
use crate::cascade::LegStands;
use crate::model::{Intent, IntentResult, RecoveryKey, StoredLeg, StoredState};
use crate::session::{PersistId, Ticket};
use crate::store::{StateWrite, Unit, Write};
use remeet_protocol::message::{Event, Op};
use remeet_protocol::record::Mark;
use remeet_protocol::{Change, ErrorCode, Token};
use thin_vec::ThinVec;

/// Who commands the leg, as far as this process knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// Nobody yet: not taken over in this term, or the link was lost since.
    None,
    /// A claim (or an adoption, or a start) was sent; its answer is awaited.
    AwaitAnswer,
    /// The server accepted this process's token on the present connection.
    Ours,
}

/// The leg's content: how far it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Not compared in this round yet, or nothing to do.
    Idle,
    /// Waits for its turn to be pulled; `whole` asks for everything.
    Queued {
        /// Pull everything, not just what changed since the mark.
        whole: bool,
    },
    /// Pages are coming.
    Pulling(Box<Pulling>),
    /// The pull's last rows are being stored.
    AwaitStored {
        /// It was a full pull.
        whole: bool,
    },
    /// The stored rows are being counted.
    AwaitDigest {
        /// The last pull was a full one: a second disagreement is quarantined.
        whole: bool,
        /// The revision of the mark that was stored when they were to be counted.
        stored: u64,
    },
    /// The content stands; the cache is being brought up to date.
    AwaitCache,
}

/// A pull under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pulling {
    /// The request.
    pub ticket: Ticket,
    /// Everything was asked for.
    pub whole: bool,
    /// Changes so far.
    pub changes: Vec<Change>,
}

/// An intent that is not answered and stored yet.
#[derive(Debug, Clone)]
pub(super) struct OpenIntent {
    /// The intent.
    pub intent: Intent,
    /// It is with the session under this ticket.
    pub asked: Option<Ticket>,
    /// The persist that must be done before it is sent; `None` once it is.
    pub after: Option<PersistId>,
    /// The persist that the request awaits: its own, or that of the result before it.
    pub awaits: Option<PersistId>,
}

impl OpenIntent {
    /// An intent that is on its way to the store.
    pub(super) fn storing(intent: Intent, after: PersistId) -> Self {
        Self { intent, asked: None, after: Some(after), awaits: None }
    }

    /// An intent that was read from the store: it may be sent at once.
    pub(super) fn stored(intent: Intent) -> Self {
        Self { intent, asked: None, after: None, awaits: None }
    }
}

/// An event's step beyond a gap: (revision before it, mark after it).
pub(super) type Step = (u64, Mark);

/// One leg in memory. There are as many as meetings live: lists that are nearly always empty take a pointer.
#[derive(Debug)]
pub(super) struct Leg {
    /// The control row as it will be once everything handed to the store is written.
    pub row: StoredLeg,
    /// How it stands in the store, as far as is known: nothing that is on its way there is told (rule 15).
    pub stands: LegStands,
    /// Who commands it.
    pub control: Control,
    /// What was asked up to this ticket was asked before the last acceptance, and says nothing of it.
    pub accepted_at: Ticket,
    /// How far its content is stored.
    pub content: Content,
    /// Steps beyond a gap, in ascending order; bounded by `Settings::gap_marks`.
    pub gap: ThinVec<Step>,
    /// Records removed by events while a pull runs: its older rows must not bring them back.
    pub removed_meanwhile: ThinVec<(remeet_protocol::RecordKey, u64)>,
    /// Intents that are not done, in order; the first may be in flight.
    pub open: ThinVec<OpenIntent>,
    /// The result of the last intent is on its way to the store. The next leaves only after it: of two that
    /// the server has executed a later term could not learn the first one's answer.
    pub settling: Option<PersistId>,
    /// The last intent whose result was handed to the store: a row read before that does not open it again.
    pub done: u64,
    /// The server's acceptance of the leg is on its way to the store.
    pub accepting: Option<PersistId>,
    /// A start whose result was lost with the acceptance: it is open again, whatever was done since.
    pub reopened: Option<u64>,
    /// The persist that carries the mark in memory, while it is not written: events at or below the mark are
    /// acknowledged with it, and not before.
    pub marking: Option<PersistId>,
    /// The highest mark of this life of the leg that is known to be stored.
    pub stored: Mark,
    /// What the last pull stored has not been counted yet: the mark alone does not vouch for it.
    pub uncounted: bool,
    /// Commands that wait for the leg's recovery, not persisted yet.
    pub waiting: ThinVec<Waiting>,
    /// Events that came before the leg was ours; bounded by the server's window of unacknowledged ones.
    pub held: ThinVec<Event>,
    /// The key of a leg that is not started yet. Dropped with the start: memory keeps generations, not
    /// secrets, so that the cache is really used.
    pub unstarted: Option<Box<RecoveryKey>>,
    /// Times that a lost compare-and-set was tried anew.
    pub lost: u8,
    /// An acceptance was lost, or may have been in an earlier term, and content of its place may be stored all the same:
    /// with a mark that the row did not show yet when it was read again, or with none.
    pub content_unsure: bool,
    /// Stored is what is left of another life of the leg: the mark stays at nothing until all is pulled, or a later
    /// term would take the remains for part of it.
    pub reset: bool,
    /// Its first open intent may be sent as soon as the meeting's other legs are known.
    pub unsent: bool,
    /// A round has this leg on its list.
    pub in_round: bool,
    /// Its end is on its way to the store.
    pub closing: Option<PersistId>,
    /// The state before an end, or before the intent to end it, that is on its way to the store: what is stored, and
    /// therefore cached. A cached end gives way to nothing of its term, and this one may still be lost.
    pub before_end: Option<StoredState>,
    /// Number of that intent.
    pub ending: Option<u64>,
    /// The server's content was behind the mark when it accepted the takeover.
    pub behind: bool,
    /// Cache tasks of this leg that are not answered.
    pub cache_open: u32,
    /// Operators who wait for its quarantine to be lifted; few.
    pub lifting: ThinVec<Waiter>,
    /// Pulls in a row whose stored rows did not add up.
    pub recounts: u8,
    /// Its content stands, which is told when its acceptance does, too (rule 15).
    pub refreshed: bool,
    /// Its cached status is known to be behind: refill it once the content stands.
    pub cache_behind: bool,
    /// Changes were stored that no cache task carries: another refill follows the open tasks.
    pub cache_missed: bool,
}

const _: () = assert!(size_of::<Leg>() <= 448, "the allocator's next larger class has 512 bytes");

impl Leg {
    pub(super) fn new(row: StoredLeg) -> Self {
        Self {
            stands: LegStands::from(&row),
            stored: row.mark,
            row,
            control: Control::None,
            accepted_at: Ticket(0),
            content: Content::Idle,
            gap: ThinVec::new(),
            removed_meanwhile: ThinVec::new(),
            open: ThinVec::new(),
            settling: None,
            done: 0,
            accepting: None,
            reopened: None,
            marking: None,
            uncounted: false,
            waiting: ThinVec::new(),
            held: ThinVec::new(),
            unstarted: None,
            lost: 0,
            content_unsure: false,
            reset: false,
            unsent: false,
            in_round: false,
            closing: None,
            before_end: None,
            ending: None,
            behind: false,
            cache_open: 0,
            lifting: ThinVec::new(),
            recounts: 0,
            refreshed: false,
            cache_behind: false,
            cache_missed: false,
        }
    }

    /// A leg that is on its way to the store: nothing of it stands, and it counts as little as one that has ended.
    pub(super) fn unstored(row: StoredLeg) -> Self {
        let mut leg = Self::new(row);
        leg.stands.state = StoredState::Ended;
        leg
    }

    /// In meeting, under this term, on this connection.
    pub(super) fn is_ours(&self, token: Option<Token>) -> bool {
        self.control == Control::Ours
            && self.row.state == StoredState::InMeeting
            && token.is_some_and(|token| token.epoch == self.row.epoch)
    }

    /// Its start, of this term, is under way: it is not being recovered, its state says all.
    pub(super) fn starts(&self) -> bool {
        self.row.state == StoredState::Starting && self.open.first().is_some_and(|open| open.asked.is_some())
    }

    /// An end, or the intent to end it, is handed to the store.
    pub(super) fn ends(&mut self, state: StoredState) {
        self.before_end.get_or_insert(self.row.state);
        self.row.state = state;
        self.row.version += 1;
    }

    /// What stores its end. The intents that no client asked for go with it: of what stays open on an ended leg only a
    /// client reminds a later term.
    pub(super) fn end_unit(&self, end: StateWrite) -> Unit {
        let leg = end.leg;
        let own = self.open.iter().map(|open| &open.intent).filter(|intent| intent.command.is_none());
        let done = own.map(|intent| {
            Write::IntentDone(IntentResult { leg, number: intent.number, code: code_of_ended(&intent.op) })
        });
        Unit { writes: done.chain([Write::State(end)]).collect() }
    }

    /// The intent to end it is stored.
    pub(super) fn ending_stored(&mut self, number: u64) {
        if self.ending.take_if(|ending| *ending == number).is_some() {
            self.before_end = self.closing.map(|_| StoredState::Ending);
        }
    }

    /// Its end is stored, or its row is read again.
    pub(super) fn end_is_known(&mut self) {
        (self.closing, self.ending, self.before_end) = (None, None, None);
    }

    /// Whether commands may be handed to the session.
    pub(super) fn takes_commands(&self) -> bool {
        self.control == Control::Ours
    }

    /// The link to its server is gone: whatever was asked on it must be asked again.
    pub(super) fn link_lost(&mut self) {
        self.control = Control::None;
        self.content = Content::Idle;
        self.unsent = false;
        self.in_round = false;
        self.behind = false;
        // Steps and removals of events are of what the server was on that link.
        self.gap.clear();
        self.removed_meanwhile.clear();
        for open in &mut self.open {
            open.asked = None;
        }
    }
}

/// The result of an intent on a leg that has ended. Ending that is done (SPEC K-6).
pub(super) fn code_of_ended(op: &Op) -> ErrorCode {
    if matches!(op, Op::End(_)) { ErrorCode::OK } else { ErrorCode::ENDED }
}
