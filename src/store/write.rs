//! What is written: units of writes that stand or fall together.

use crate::model::{ClientAnswerRow, Intent, IntentResult, RecoveryKey, StoredLeg, StoredState};
use remeet_protocol::message::EndCause;
use remeet_protocol::record::Mark;
use remeet_protocol::{BootId, Change, DomainId, Epoch, Handle, LegId};

/// Writes that stand or fall together. Their order within the unit does not matter: a new leg comes first, then the
/// state (with its content reset), key, intent, result, content, the rest. At most one of each kind a leg, but any
/// number of intents, results and answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The writes; seldom more than three.
    pub writes: Vec<Write>,
}

/// What became of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is written. If it wrote a state: the row's version now, else 0.
    Applied {
        /// The control row's version.
        version: u64,
    },
    /// Its compare-and-set did not fit (or the leg exists already, or the intent's number is taken):
    /// nothing of it is written. If the row exists: its version now, else 0.
    ///
    /// So are lost: a write to a leg that does not exist; a key of a lower generation, or another key of the same one;
    /// and what can never be written (an illegal change of state, an acceptance of another term, a number above
    /// 2^63 - 2 where numbers are compared, a value that the database refuses), with an error in the log.
    Lost {
        /// The control row's version.
        version: u64,
    },
}

/// One write. The list of kinds is closed: each is one bulk statement, whatever the number of legs. What is large and rare is
/// boxed: as many states wait after a restart as there are legs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A new leg (and its meeting) with its recovery key. Lost if the leg exists.
    NewLeg(Box<NewLeg>),
    /// A compare-and-set of the control row.
    State(StateWrite),
    /// Records and mark.
    Content(ContentWrite),
    /// A recovery key of a higher generation (adoption).
    Key(Box<RecoveryKey>),
    /// A new intent; also raises the leg's `intent` to its number. Lost if the number is taken.
    Intent(Box<Intent>),
    /// An intent is no longer open.
    IntentDone(IntentResult),
    /// A client's answer; the 257th of an instance prunes the lowest. A repeat of a kept one changes nothing.
    Answer(ClientAnswerRow),
    /// Quarantines a leg's back-fill with its reason, or lifts the quarantine.
    Quarantine(LegId, Option<String>),
    /// An operator's mark: recover first.
    First(LegId, bool),
}

/// A new leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLeg {
    /// Its control row, version 1.
    pub row: StoredLeg,
    /// Its recovery key, generation 1.
    pub key: RecoveryKey,
}

/// What a compare-and-set compares. Every change of state, boot id or handle raises the version, so
/// equality of the version is equality of (state, boot id, handle) too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    /// The row's version.
    pub version: u64,
    /// Its state: said once more, so that no mistake with versions can end a wrong leg.
    pub state: StoredState,
}

/// A compare-and-set of a control row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrite {
    /// The leg.
    pub leg: LegId,
    /// What the plan saw.
    pub expect: Expect,
    /// The new state: `expect.state.may_become(state)`.
    pub state: StoredState,
    /// With ended: why.
    pub cause: EndCause,
    /// With in-meeting: the term whose token was accepted; else unchanged (`None`).
    pub accepted: Option<Accepted>,
}

impl StateWrite {
    /// Whether the stored content belongs to an earlier life of the leg.
    #[must_use]
    pub fn resets_content(&self) -> bool {
        self.accepted.is_some_and(|accepted| accepted.content_reset)
    }
}

/// A server's acceptance: start, takeover or adoption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The term.
    pub epoch: Epoch,
    /// The life of the server's table.
    pub boot: BootId,
    /// The server's name of the leg.
    pub handle: Handle,
    /// The table revision of the answer.
    pub table_revision: u64,
    /// The leg is another one than the stored content came from (new boot id or handle): the mark
    /// falls back to zero and every stored record's revision to 0, so that the full pull that follows
    /// replaces and removes them.
    pub content_reset: bool,
}

/// Records of a leg (rule 13: a record is written over a lower revision only; over an equal one only in
/// a full pull). Rows that agree are not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentWrite {
    /// The leg.
    pub leg: LegId,
    /// The leg's own domain, which stands in every row; it is not compared with the control row's.
    pub domain: DomainId,
    /// The changes; at most one a record.
    pub changes: Vec<Change>,
    /// The mark's revision that the changes follow on; with `full`, 0. A stored mark below it stays where it is: the database
    /// has lost what it had stored in between.
    pub base: u64,
    /// The new mark with all four groups complete up to it; `None` leaves it (rows beyond a gap, pages
    /// before the last). A mark never falls.
    pub mark: Option<Mark>,
    /// `changes` are the whole content at `mark`: what is stored at or below the mark's revision and is not among them
    /// is removed.
    pub full: bool,
}

impl Write {
    /// Rows that it asks to be written. One that agrees already is not written.
    #[must_use]
    pub fn rows(&self) -> u64 {
        match self {
            // With its meeting and its key.
            Write::NewLeg(_) => 3,
            Write::Content(write) => write.changes.len() as u64 + u64::from(write.mark.is_some()),
            // With the leg's highest number; with the instance's last moment.
            Write::Intent(_) | Write::Answer(_) => 2,
            Write::State(_) | Write::Key(_) | Write::IntentDone(_) | Write::Quarantine(..) | Write::First(..) => 1,
        }
    }

    /// The leg that the write belongs to, if to one.
    #[must_use]
    pub fn leg(&self) -> Option<LegId> {
        match self {
            Write::NewLeg(new) => Some(new.row.leg),
            Write::State(write) => Some(write.leg),
            Write::Content(write) => Some(write.leg),
            Write::Key(key) => Some(key.leg),
            Write::Intent(intent) => Some(intent.leg),
            Write::IntentDone(result) => Some(result.leg),
            Write::Answer(_) => None,
            Write::Quarantine(leg, _) | Write::First(leg, _) => Some(*leg),
        }
    }
}

impl Unit {
    /// A unit of one write.
    #[must_use]
    pub fn one(write: Write) -> Self {
        Self { writes: vec![write] }
    }

    /// Rows that it asks to be written.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.writes.iter().map(Write::rows).sum()
    }

    /// The leg that the unit belongs to, if to one: units of one leg are written in order.
    #[must_use]
    pub fn leg(&self) -> Option<LegId> {
        self.writes.iter().find_map(Write::leg)
    }
}
