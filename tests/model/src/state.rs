//! What there is: the database, the server, the two schedulers, the network.

use super::network::{Answers, Packet, Packets, Reply, Request};
use super::{Part, Recovery, Who};

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
    /// The client's command: its intent, or its result.
    Command(Given),
}

/// What was made of commits of unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Unknown {
    /// One that may stand yet, with its term. It compares the row's version, so any other write makes it lose.
    pub late: Option<(Write, u8)>,
    /// The last step settled one: it stood, or not.
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
pub(crate) struct Inventory {
    pub(crate) boot: u8,
    pub(crate) leg: Leg,
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
    /// It has not heard of one on this link.
    #[default]
    No,
    /// The server has attached it, in this life of its table, at this table revision.
    Done { boot: u8, revision: u8 },
}

/// A scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Scheduler {
    /// The term that it holds, or believes to hold. None: a standby.
    pub(crate) term: Option<u8>,
    pub(crate) attach: Attach,
    /// The latest life of the server's table that it has attached to in this term.
    pub(crate) known_boot: Option<u8>,
    /// What the plan is to be made from.
    pub(crate) inventory: Option<Inventory>,
    /// The inventory was asked for after the attach, or shows the same as the attach.
    pub(crate) last: bool,
    /// An inventory is asked for and awaited: after the attach, or before.
    pub(crate) asked: Option<bool>,
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
    /// Its holder is sure of its lease.
    pub(crate) sure: bool,
    /// The meeting.
    pub row: Row,
    /// Commits of unknown outcome.
    pub unknown: Unknown,
    // The server.
    /// The life of its table.
    pub(crate) boot: u8,
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
    /// The last step refused a command of a fenced token.
    pub(crate) refused: bool,
    /// The command was executed in truth.
    pub(crate) executed: bool,
    /// The client was told that the meeting could not be ended.
    pub refused_end: bool,
    /// What should never have happened.
    pub fault: Option<Fault>,
}

impl State {
    /// Nothing can befall any more: the meeting is over, and nothing on its way could start it.
    pub(crate) fn is_over(&self) -> bool {
        let starts = self.packets.iter().any(|packet| packet.request == Request::Start);
        let settled = self.schedulers.iter().all(|who| who.unsettled.is_none()) && self.unknown.late.is_none();
        self.row.has_ended() && matches!(self.leg, Leg::Never | Leg::Forgotten) && !starts && settled
    }

    /// Takes what makes no difference out of a stale look-up: its writes lose, what else may follow from it is
    /// a takeover.
    pub(crate) fn forget_stale_rows(&mut self) {
        for seen in self.schedulers.iter_mut().filter_map(|who| who.seen.as_mut()).filter(|seen| seen.stale) {
            let state = match seen.row.state {
                RowState::Starting | RowState::InMeeting | RowState::Ending => RowState::Starting,
                RowState::Closed => RowState::Ended,
                state => state,
            };
            seen.row = Row { state, ..Row::default() };
        }
    }

    /// Takes out of a look-up what the plan will not ask, where the inventory has no live meeting: a stale row changes
    /// nothing then.
    pub(crate) fn forget_rows_that_say_nothing(&mut self) {
        for who in &mut self.schedulers {
            if let (Some(Inventory { leg, .. }), Some(seen)) = (who.inventory, &mut who.seen)
                && seen.stale
                && leg != Leg::Live
            {
                seen.row.state = RowState::Ended;
            }
        }
    }

    /// Takes out of an attach what the plan will not ask. Its revision is compared only with an inventory that was
    /// asked for before it.
    pub(crate) fn forget_what_the_plan_does_not_ask(&mut self) {
        for who in &mut self.schedulers {
            let Attach::Done { boot, revision } = who.attach else { continue };
            if let Some(cut) = who.inventory {
                who.last |= (cut.boot, cut.leg.revision()) == (boot, revision);
            }
            if (who.inventory.is_none() || who.last) && who.asked != Some(false) {
                who.attach = Attach::Done { boot, revision: 0 };
            }
        }
    }

    /// Begins a step: what only tells of the last one is over.
    pub(crate) fn begin_step(&mut self) {
        self.unknown.settled = None;
        self.refused = false;
    }

    pub(crate) fn of(&self, who: Who) -> &Scheduler {
        &self.schedulers[who.index()]
    }

    pub(crate) fn of_mut(&mut self, who: Who) -> &mut Scheduler {
        &mut self.schedulers[who.index()]
    }

    /// Takes out of the network what can have no effect any more, so that states do not differ by it.
    pub(crate) fn forget_what_is_of_no_use(&mut self, model: &Recovery) {
        let Self { leg, boot, highest, packets, schedulers, .. } = *self;
        let has_tombstone = leg == Leg::Tombstone;
        // Commands of an older token are refused, one like the other: one of them will do to show it.
        let is_refused = |packet: &Packet| packet.term < highest && model.has(Part::Fencing);
        let is_notice = |packet: &Packet| matches!(packet.request, Request::Attach | Request::Acknowledge);
        let refused = packets.iter().find(|packet| is_refused(packet) && !is_notice(packet));
        self.packets.keep(|packet| match packet.request {
            Request::Attach => packet.term >= highest,
            Request::Acknowledge => packet.boot == boot && has_tombstone && !is_refused(&packet),
            _ => !is_refused(&packet) || Some(packet) == refused,
        });
        let counts = !self.row.has_ended() || !model.has(Part::CompareAndSet);
        self.answers.keep(|answer| {
            let acknowledged = Packet { request: Request::Acknowledge, term: answer.term, boot: answer.boot };
            // The acknowledgement is all that an event is good for once the end is stored.
            let is_heard = has_tombstone && answer.boot == boot && packets.iter().all(|packet| packet != acknowledged);
            let hears = |who: &Scheduler| {
                let awaits = match answer.reply {
                    Reply::Attached(_) => who.attach == Attach::No,
                    Reply::Inventory(_) => who.asked.is_some(),
                    Reply::EndEvent => counts || is_heard,
                    _ => counts,
                };
                awaits && who.term == Some(answer.term) && who.known_boot.is_none_or(|boot| boot <= answer.boot)
            };
            schedulers.iter().any(hears)
        });
    }

    /// Something like this is on its way from a life of the table that is over, and will count.
    pub(crate) fn is_late(&self, like: impl Fn(Reply) -> bool) -> bool {
        self.answers.iter().any(|answer| answer.boot < self.boot && like(answer.reply))
    }

    /// The end of a meeting of a lost table is on its way to a scheduler that is attached to that table yet.
    pub(crate) fn late_event_is_heard(&self) -> bool {
        let attached = |who: &Scheduler| matches!(who.attach, Attach::Done { boot, .. } if boot < self.boot);
        !self.row.has_ended() && self.is_late(|reply| reply == Reply::EndEvent) && self.schedulers.iter().any(attached)
    }
}
