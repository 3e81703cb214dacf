//! The database: the term, its lease, the meeting's row.

use super::state::{Fault, Given, Row, RowState, Scheduler, Seen, State, Write};
use super::{Commit, Part, Recovery, Who};

/// What became of a write, for who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Stands,
    /// The row is not what the write compares with, or the term is another's.
    Lost,
    Unknown,
}

impl Recovery {
    pub(crate) fn time_passes(&self, state: &mut State) -> Option<()> {
        // Without a lease nobody asks.
        state.sure &= !self.bounds.lease;
        Some(())
    }

    pub(crate) fn begin_term(&self, state: &mut State, who: Who) -> Option<()> {
        let is_free = !self.bounds.lease || !state.sure || state.node == Some(who);
        // The two are alike: let the first be the first.
        let is_first = state.term > 0 || who == Who::A;
        if state.of(who).term.is_some() || !is_free || !is_first || state.term == self.bounds.terms {
            return None;
        }
        state.term += 1;
        state.node = Some(who);
        state.sure = true;
        if self.bounds.lease && self.has(Part::TermCheck) {
            // The replaced holder is not sure, so it sends nothing, and its writes lose: what it still does makes
            // no difference to anybody. What it has sent is on its way.
            state.schedulers = Default::default();
        }
        *state.of_mut(who) = Scheduler { term: Some(state.term), ..Scheduler::default() };
        Some(())
    }

    pub(crate) fn renew(&self, state: &mut State, who: Who) -> Option<()> {
        if state.of(who).term != Some(state.term) {
            return None;
        }
        state.sure = true;
        Some(())
    }

    pub(crate) fn look_up(&self, state: &mut State, who: Who) -> Option<()> {
        let row = state.row;
        let scheduler = state.of_mut(who);
        if scheduler.inventory.is_none() || scheduler.seen.is_some() {
            return None;
        }
        scheduler.seen = Some(Seen { row, stale: false });
        Some(())
    }

    /// Makes a change of the row under the scheduler's term.
    pub(crate) fn write(&self, state: &mut State, who: Who, write: Write, commit: Commit) -> Written {
        let Some(term) = state.of(who).term else { return Written::Lost };
        match commit {
            Commit::Known => match self.apply(state, write, term) {
                true => Written::Stands,
                false => Written::Lost,
            },
            Commit::Unknown => {
                state.unknown.late = Some((write, term));
                state.of_mut(who).unsettled = Some(write);
                Written::Unknown
            }
        }
    }

    /// The statement itself: false if it loses.
    fn apply(&self, state: &mut State, write: Write, term: u8) -> bool {
        if term != state.term && self.has(Part::TermCheck) {
            return false;
        }
        let before = state.row;
        let ended = before.has_ended();
        let legal = match write {
            Write::Insert => before.state == RowState::None,
            Write::Touch => before.state == RowState::Starting,
            Write::InMeeting(..) => matches!(before.state, RowState::Starting | RowState::InMeeting),
            Write::Ending => before.state == RowState::InMeeting,
            Write::Ended | Write::Closed => before.state != RowState::None && !ended,
            Write::Command(Given::Open) => before.state == RowState::InMeeting && before.command == Given::No,
            Write::Command(_) => before.command == Given::Open && !ended,
        };
        if !legal && (self.has(Part::CompareAndSet) || !matches!(write, Write::InMeeting(..))) {
            return false;
        }
        if term != state.term {
            state.fault = Some(Fault::StaleWrite);
        }
        if ended {
            state.fault = Some(Fault::CameBack);
        }
        state.row = match write {
            Write::Insert => Row { state: RowState::Starting, ..before },
            Write::Touch => before,
            Write::InMeeting(boot, revision) => {
                Row { state: RowState::InMeeting, boot: Some(boot), revision, ..before }
            }
            Write::Ending => Row { state: RowState::Ending, ..before },
            // What else stood in an ended row is of no use to anybody.
            Write::Ended => Row { state: RowState::Ended, ..Row::default() },
            Write::Closed => Row { state: RowState::Closed, ..Row::default() },
            Write::Command(command) => Row { command, ..before },
        };
        self.version_rises(state);
        true
    }

    /// Whatever compares the row with what it was before loses.
    fn version_rises(&self, state: &mut State) {
        state.unknown.late = None;
        for seen in state.schedulers.iter_mut().filter_map(|who| who.seen.as_mut()) {
            seen.stale = true;
        }
    }

    pub(crate) fn late_commit(&self, state: &mut State) -> Option<()> {
        let (write, term) = state.unknown.late.take()?;
        self.apply(state, write, term).then_some(())
    }

    /// Whether the write that is unsettled stands, settled so that it stays so (rule 12).
    pub(crate) fn settled(&self, state: &mut State, who: Who) -> Option<bool> {
        if state.of(who).term != Some(state.term) {
            return None;
        }
        let stands = state.unknown.late.is_none();
        if self.has(Part::ReRead) {
            self.version_rises(state);
        }
        state.unknown.settled = Some(stands);
        Some(stands)
    }
}
