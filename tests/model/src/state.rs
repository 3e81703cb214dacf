//! What there is: the database, the server, the two schedulers, the network.

use super::Who;
use super::network::{Answers, Packets};

/// The stored state of the meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RowState {
    /// No row.
    #[default]
    None,
    /// Its start is stored, its answer not.
    Starting,
    /// Its server runs it.
    InMeeting,
    /// A client has ended it, its server has not yet.
    Ending,
    /// Over, by word of its server.
    Ended,
    /// Over, because its server has it no more.
    Closed,
}

/// What has become of the client's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Given {
    /// There was none.
    #[default]
    No,
    /// The intent is stored.
    Open,
    /// Its result is stored.
    Done,
}

/// The meeting's row in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Row {
    /// Its state.
    pub state: RowState,
    /// The life of the server's table in which it was accepted.
    pub boot: Option<u8>,
    /// The server's table revision then.
    pub revision: u8,
    /// The client's command.
    pub command: Given,
}

impl Row {
    /// Over, one way or the other.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, RowState::Ended | RowState::Closed)
    }
}

/// A change of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Write {
    /// The row itself, as starting, with the intent to start.
    Insert,
    /// Nothing but the version: the start is to be sent again, if the row is what the plan saw.
    Touch,
    /// In-meeting, accepted in this life of the server's table, at this table revision.
    InMeeting(u8, u8),
    /// The intent to end.
    Ending,
    /// Over, by word of the server.
    Ended,
    /// Over by absence.
    Closed,
}

/// What was made of commits of unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Unknown {
    /// How many there were.
    pub count: u8,
    /// One that may stand yet, with its term. It compares the row's version, so any other write makes it lose.
    pub late: Option<(Write, u8)>,
    /// How the last was settled: it stood, or not.
    pub settled: Option<bool>,
}

/// The meeting at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Leg {
    /// It was never started in this life of the table.
    #[default]
    Never,
    /// It runs.
    Live,
    /// It has ended, and its end is not acknowledged.
    Tombstone,
    /// It has ended, and nothing is left of it.
    Forgotten,
}

impl Leg {
    /// The table revision: it rises when a leg appears or disappears.
    #[must_use]
    pub fn revision(self) -> u8 {
        match self {
            Self::Never => 0,
            Self::Live => 1,
            Self::Tombstone | Self::Forgotten => 2,
        }
    }
}

/// An inventory: the life of the table, and the meeting in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inventory {
    pub(crate) boot: u8,
    pub(crate) leg: Leg,
    pub(crate) revision: u8,
}

/// Where the scheduler is with its inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Asked {
    /// None is asked for.
    #[default]
    No,
    /// It is asked for.
    Yes,
    /// The server has cut it.
    Answered(Inventory),
}

/// The row as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) row: Row,
    /// It was written since.
    pub(crate) stale: bool,
}

/// What the scheduler knows of its attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Attach {
    /// It has not asked.
    #[default]
    No,
    /// It has asked.
    Asked,
    /// The server has attached it, in this life of its table, at this table revision.
    Done { boot: u8, revision: u8 },
}

/// A scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scheduler {
    /// The term that it holds, or believes to hold. None: a standby.
    pub term: Option<u8>,
    /// Ticks for which it is sure of its lease.
    pub sure: u8,
    /// How often it has died.
    pub crashes: u8,
    /// Inventories that it asked for in this term.
    pub(crate) inventories: u8,
    pub(crate) attach: Attach,
    pub(crate) asked: Asked,
    /// The inventory was asked for after the attach.
    pub(crate) last: bool,
    pub(crate) seen: Option<Seen>,
    /// The commit whose outcome it does not know. Nothing follows until it is settled.
    pub(crate) unsettled: Option<Write>,
}

/// What may never be. Nothing follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Executed though a newer token had attached.
    StaleCommand,
    /// A write of an older term stands.
    StaleWrite,
    /// The plan calls our meeting an orphan.
    Orphaned,
    /// An ended meeting stands as live again.
    CameBack,
    /// Started a second time, or after its end.
    RanTwice,
    /// The client's command was executed a second time.
    ExecutedTwice,
    /// Ended, though the client was told that it goes on.
    Killed,
}

/// All there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct State {
    // The database.
    /// The last term begun.
    pub term: u8,
    /// The node of its holder.
    pub(crate) node: Option<Who>,
    /// Ticks until its lease runs out.
    pub lease: u8,
    /// The meeting.
    pub row: Row,
    /// Commits of unknown outcome.
    pub unknown: Unknown,
    // The server.
    /// The life of its table.
    pub(crate) boot: u8,
    /// How often it restarted with its table.
    pub(crate) restarts: u8,
    /// The highest token that has attached.
    pub(crate) highest: u8,
    /// That token has a session now.
    pub(crate) session: bool,
    /// The meeting.
    pub leg: Leg,
    /// The term that commands it.
    pub owner: u8,
    /// What it remembers: that token's start was seen; the command was executed.
    pub(crate) seen_start: bool,
    pub(crate) seen_command: bool,
    // The world.
    /// The schedulers.
    pub(crate) schedulers: [Scheduler; 2],
    pub(crate) packets: Packets,
    pub(crate) answers: Answers,
    /// The command was executed in truth.
    pub(crate) executed: bool,
    /// The client was told that the meeting could not be ended.
    pub refused_end: bool,
    /// What should never have happened.
    pub fault: Option<Fault>,
}

impl State {
    pub(crate) fn of(&self, who: Who) -> &Scheduler {
        &self.schedulers[who.index()]
    }

    pub(crate) fn of_mut(&mut self, who: Who) -> &mut Scheduler {
        &mut self.schedulers[who.index()]
    }

    /// An answer to a term that nobody holds any more has no effect on anybody.
    pub(crate) fn forget_answers_to_nobody(&mut self) {
        let terms = self.schedulers.map(|who| who.term);
        self.answers.keep(&terms);
    }
}
