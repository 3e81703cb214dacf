//! The schedulers.

use super::network::{Answer, Reply, Request};
use super::state::{Attach, Fault, Given, Inventory, Leg, Row, RowState, Scheduler, State, Write};
use super::store::Written;
use super::{Commit, Part, Recovery, Who};

/// What the plan makes of the meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Nothing,
    TakeOver,
    FinishStart,
    Ended,
    Vanished,
    Orphan,
}

impl Recovery {
    pub(crate) fn crash(&self, state: &mut State, who: Who) -> Option<()> {
        *state.of_mut(who) = Scheduler::default();
        Some(())
    }

    pub(crate) fn step_down(&self, state: &mut State, who: Who) -> Option<()> {
        if state.of(who).term == Some(state.term) {
            return None;
        }
        *state.of_mut(who) = Scheduler::default();
        Some(())
    }

    pub(crate) fn link_lost(&self, state: &mut State, who: Who) -> Option<()> {
        let scheduler = state.of_mut(who);
        (scheduler.attach, scheduler.inventory, scheduler.seen) = (Attach::No, None, None);
        (scheduler.last, scheduler.asked) = (false, None);
        Some(())
    }

    pub(crate) fn ask_attach(&self, state: &mut State, who: Who) -> Option<()> {
        let term = self.may_command(state, who)?;
        state.packets.send(Request::Attach, term, 0);
        Some(())
    }

    pub(crate) fn ask_inventory(&self, state: &mut State, who: Who) -> Option<()> {
        let scheduler = state.of_mut(who);
        let again = match (scheduler.inventory, scheduler.attach) {
            (None, _) => true,
            // The attach shows that the inventory was cut too early: one more, which is the last.
            (Some(cut), Attach::Done { boot, revision }) => {
                !scheduler.last && (cut.boot, cut.leg.revision()) != (boot, revision) && scheduler.seen.is_some()
            }
            _ => false,
        };
        if !again || scheduler.asked.is_some() {
            return None;
        }
        (scheduler.inventory, scheduler.last) = (None, false);
        scheduler.asked = Some(matches!(scheduler.attach, Attach::Done { .. }));
        if self.has(Part::SecondLookUp) {
            scheduler.seen = None;
        }
        Some(())
    }

    pub(crate) fn plan(&self, state: &mut State, who: Who, commit: Commit) -> Option<()> {
        let scheduler = *state.of(who);
        let (Some(cut), Some(seen), Attach::Done { boot, revision }) =
            (scheduler.inventory, scheduler.seen, scheduler.attach)
        else {
            return None;
        };
        // Final: cut after the attach, or nothing has moved between. In one life of the table, too.
        let is_final = cut.boot == boot && (scheduler.last || cut.leg.revision() == revision);
        if !is_final || scheduler.unsettled.is_some() {
            return None;
        }
        let term = self.may_command(state, who)?;
        (state.of_mut(who).inventory, state.of_mut(who).seen, state.of_mut(who).last) = (None, None, false);
        let write = match self.bucket(cut, seen.row) {
            Bucket::Nothing => None,
            Bucket::TakeOver => {
                state.packets.send(Request::Takeover, term, boot);
                None
            }
            Bucket::FinishStart => Some(Write::Touch),
            Bucket::Ended => Some(Write::Ended),
            Bucket::Vanished => Some(Write::Closed),
            Bucket::Orphan => {
                state.fault = Some(Fault::Orphaned);
                None
            }
        };
        match write {
            // The row is not what the plan saw: nothing comes of it, and the next round plans again.
            Some(_) if seen.stale && self.has(Part::CompareAndSet) => only(commit, Commit::Known),
            Some(write) => self.write_and_go_on(state, who, write, commit),
            None => only(commit, Commit::Known),
        }
    }

    fn bucket(&self, Inventory { boot, leg }: Inventory, row: Row) -> Bucket {
        match (leg, row.state) {
            (Leg::Live, RowState::None) => Bucket::Orphan,
            (Leg::Live, RowState::Starting | RowState::InMeeting | RowState::Ending) => Bucket::TakeOver,
            (_, RowState::None | RowState::Ended | RowState::Closed) => Bucket::Nothing,
            (Leg::Tombstone, _) => Bucket::Ended,
            (Leg::Never | Leg::Forgotten, RowState::Starting) if self.has(Part::UnansweredStart) => Bucket::FinishStart,
            (Leg::Never | Leg::Forgotten, RowState::Starting) => Bucket::Vanished,
            (Leg::Never | Leg::Forgotten, RowState::InMeeting | RowState::Ending) => {
                let moved = leg.revision() > row.revision || !self.has(Part::TableRevision);
                match row.boot != Some(boot) || moved {
                    true => Bucket::Vanished,
                    false => Bucket::Nothing,
                }
            }
        }
    }

    pub(crate) fn client_start(&self, state: &mut State, who: Who, commit: Commit) -> Option<()> {
        // One meeting, whose id its client gives once.
        if state.row.state != RowState::None || state.unknown.late.is_some() {
            return None;
        }
        self.attached(state, who)?;
        self.may_command(state, who)?;
        self.write_and_go_on(state, who, Write::Insert, commit)
    }

    pub(crate) fn client_command(&self, state: &mut State, who: Who, commit: Commit) -> Option<()> {
        self.commands_meeting(state, who)?;
        self.may_command(state, who)?;
        if !self.bounds.command || state.row.command != Given::No {
            return None;
        }
        self.write_and_go_on(state, who, Write::Command(Given::Open), commit)
    }

    pub(crate) fn client_end(&self, state: &mut State, who: Who, commit: Commit) -> Option<()> {
        self.commands_meeting(state, who)?;
        self.may_command(state, who)?;
        if state.refused_end {
            return None;
        }
        self.write_and_go_on(state, who, Write::Ending, commit)
    }

    /// An answer or the event reaches the scheduler.
    pub(crate) fn answered(&self, state: &mut State, who: Who, answer: Answer, commit: Commit) -> Option<()> {
        let Answer { reply, term, boot } = answer;
        let here = state.row.boot.is_none_or(|stored| stored == boot);
        let scheduler = state.of_mut(who);
        // Answers of an earlier life of the table than the one attached to are ignored.
        if scheduler.term != Some(term) || scheduler.known_boot.is_some_and(|known| known > boot) {
            return None;
        }
        let is_settled = scheduler.unsettled.is_none();
        match reply {
            Reply::Attached(revision) => {
                only(commit, Commit::Known)?;
                if scheduler.attach != Attach::No {
                    return None;
                }
                (scheduler.attach, scheduler.known_boot) = (Attach::Done { boot, revision }, Some(boot));
                Some(())
            }
            Reply::Inventory(leg) => {
                only(commit, Commit::Known)?;
                scheduler.last = scheduler.asked.take()?;
                scheduler.inventory = Some(Inventory { boot, leg });
                Some(())
            }
            _ if !is_settled => None,
            Reply::EndEvent => self.hear_end(state, who, boot, commit),
            Reply::Started | Reply::TakenOver if state.row.state == RowState::Ending => {
                only(commit, Commit::Known)?;
                let term = self.may_command(state, who)?;
                state.packets.send(Request::End, term, boot);
                Some(())
            }
            Reply::Started | Reply::TakenOver => {
                let write = Write::InMeeting(boot, Leg::Live.revision());
                self.write_and_go_on(state, who, write, commit)?;
                // The leg's open intents are sent again, in order.
                if commit == Commit::Known && state.row.command == Given::Open && self.may_command(state, who).is_some()
                {
                    state.packets.send(Request::Command, term, boot);
                }
                Some(())
            }
            Reply::Done => {
                let open = state.row.command == Given::Open;
                open.then(|| self.write_and_go_on(state, who, Write::Command(Given::Done), commit)).flatten()
            }
            Reply::Ended if here => self.write_and_go_on(state, who, Write::Ended, commit),
            Reply::Unknown if here => self.write_and_go_on(state, who, Write::Closed, commit),
            Reply::Ended | Reply::Unknown => None,
        }
    }

    /// The event of the meeting's end, in the session that the scheduler is attached with. It is acknowledged when the
    /// end is stored, or if what is stored is of another life of the table.
    fn hear_end(&self, state: &mut State, who: Who, boot: u8, commit: Commit) -> Option<()> {
        let term = state.of(who).term?;
        let of_this_leg = state.row.boot.is_none_or(|stored| stored == boot);
        match state.row.state {
            _ if self.attached(state, who) != Some(boot) => None,
            RowState::Starting | RowState::InMeeting | RowState::Ending if of_this_leg => {
                self.write_and_go_on(state, who, Write::Ended, commit)
            }
            _ => {
                only(commit, Commit::Known)?;
                state.packets.send(Request::Acknowledge, term, boot);
                Some(())
            }
        }
    }

    /// What became of the commit is found out, and what was to follow it follows, if it stands.
    pub(crate) fn settle(&self, state: &mut State, who: Who) -> Option<()> {
        let write = state.of(who).unsettled?;
        let stands = self.settled(state, who)?;
        state.of_mut(who).unsettled = None;
        match (stands, write) {
            (true, write) => self.follow(state, who, write),
            // A new row is settled by making it: one of both stands.
            (false, Write::Insert) => return self.write_and_go_on(state, who, write, Commit::Known),
            (false, Write::Ending) => state.refused_end = true,
            // It comes again: with the next round, or with the packet.
            (false, _) => {}
        }
        Some(())
    }

    fn write_and_go_on(&self, state: &mut State, who: Who, write: Write, commit: Commit) -> Option<()> {
        let scheduler = state.of(who);
        let too_many = !self.bounds.unknown || state.unknown.late.is_some();
        if scheduler.unsettled.is_some() || (commit == Commit::Unknown && too_many) {
            return None;
        }
        match self.write(state, who, write, commit) {
            Written::Stands => self.follow(state, who, write),
            Written::Unknown => {}
            Written::Lost => return None,
        }
        Some(())
    }

    /// The command that a stored intent releases.
    fn follow(&self, state: &mut State, who: Who, write: Write) {
        let request = match write {
            Write::Insert | Write::Touch => Request::Start,
            Write::Ending => Request::End,
            Write::Command(Given::Open) => Request::Command,
            Write::InMeeting(..) | Write::Ended | Write::Closed | Write::Command(_) => return,
        };
        if let (Some(term), Some(boot)) = (self.may_command(state, who), self.attached(state, who)) {
            state.packets.send(request, term, boot);
        }
    }

    /// Rule 5: sure of its lease, where there is one.
    fn may_command(&self, state: &State, who: Who) -> Option<u8> {
        state.of(who).term.filter(|term| !self.bounds.lease || (*term == state.term && state.sure))
    }

    fn attached(&self, state: &State, who: Who) -> Option<u8> {
        match state.of(who).attach {
            Attach::Done { boot, .. } => Some(boot),
            _ => None,
        }
    }

    /// In-meeting in the life of the table that it is attached to.
    fn commands_meeting(&self, state: &State, who: Who) -> Option<u8> {
        let boot = self.attached(state, who)?;
        (state.row.state == RowState::InMeeting && state.row.boot == Some(boot)).then_some(boot)
    }
}

/// The step makes no commit: there is one of it only.
fn only(commit: Commit, wanted: Commit) -> Option<()> {
    (commit == wanted).then_some(())
}
