//! Which legs a command is for: the meeting's, found in memory or in the store, and of these the one that has the
//! terminal (SPEC K-14 to K-16).

use super::commands::Waiting;
use super::core::{Core, Reading};
use super::{Output, Read};
use crate::cascade::{Candidate, owner_of, terminal_of};
use crate::model::{CommandId, StoredState};
use crate::store::LookUp;
use remeet_protocol::message::{ClientOp, LEGS_MAX, Op};
use remeet_protocol::record::Number;
use remeet_protocol::{ErrorCode, LegId, MeetingId};
use std::collections::BTreeSet;

impl Core {
    /// Every leg of a meeting that is in memory, in ascending order.
    pub(super) fn legs_of(&self, meeting: MeetingId) -> Vec<LegId> {
        self.legs.of(meeting).iter().map(|leg| leg.row.leg).collect()
    }

    /// Of these, the ones that are not ended.
    pub(super) fn live_legs_of(&self, meeting: MeetingId) -> Vec<LegId> {
        let live = self.legs.of(meeting).iter().filter(|known| known.row.state != StoredState::Ended);
        live.map(|known| known.row.leg).collect()
    }

    /// Whether memory holds every leg of the meeting that is not ended: they were read, or the legs of every server
    /// were.
    pub(super) fn is_whole(&self, meeting: MeetingId) -> bool {
        self.whole.contains(&meeting) || self.servers.values().all(|server| server.looked_up)
    }

    /// Finds the command's meeting: in memory, or in the store.
    pub(super) fn place(&mut self, waiting: Waiting) {
        match &waiting.command.op {
            ClientOp::Create(create) => {
                let create = create.clone();
                return self.create(&waiting, create);
            }
            ClientOp::Adopt(adopt) => {
                let adopt = adopt.clone();
                return self.adopt(waiting, &adopt);
            }
            _ => {}
        }
        let meeting = waiting.command.meeting;
        if self.is_whole(meeting) && !self.legs.of(meeting).is_empty() {
            return self.run(waiting);
        }
        self.read_for(meeting, waiting);
    }

    /// Reads the meeting that a command waits for.
    pub(super) fn read_for(&mut self, meeting: MeetingId, waiting: Waiting) {
        if self.waiting >= self.settings.waiting_total {
            return self.refuse(&waiting, ErrorCode::RETRY, "too many commands wait for recovery");
        }
        self.waiting += 1;
        let queue = self.unplaced.entry(meeting).or_default();
        queue.push(waiting);
        if queue.len() == 1 {
            self.read_meetings(vec![meeting]);
        }
    }

    /// Reads every leg that these meetings may have.
    pub(super) fn read_meetings(&mut self, meetings: Vec<MeetingId>) {
        let legs = meetings.iter().flat_map(|meeting| (0..LEGS_MAX).map(|leg| LegId { meeting: *meeting, leg }));
        let read = Read::Legs(legs.collect());
        let id = self.read_id();
        self.reads.insert(id, Reading::Meetings(meetings));
        self.put(Output::Read { id, read });
    }

    pub(super) fn meetings_read(&mut self, meetings: Vec<MeetingId>, found: LookUp) {
        for found in found.found {
            self.take_found(found);
        }
        for meeting in meetings {
            let legs = self.legs_of(meeting);
            if !legs.is_empty() {
                self.whole.insert(meeting);
            }
            self.tell_end(meeting);
            for waiting in self.unplaced.remove(&meeting).into_iter().flatten() {
                self.waiting = self.waiting.saturating_sub(1);
                if self.legs.of(meeting).is_empty() {
                    self.refuse(&waiting, ErrorCode::UNKNOWN_MEETING, "no such meeting");
                } else {
                    self.run(waiting);
                }
            }
            for leg in legs {
                self.settle_if_ended(leg);
                self.send_unsent(leg);
            }
        }
    }

    /// Sends what waited for the meeting's other legs.
    fn send_unsent(&mut self, leg: LegId) {
        if self.legs.get_mut(&leg).is_some_and(|known| std::mem::take(&mut known.unsent)) {
            self.send_open(leg);
        }
    }

    pub(super) fn meetings_unread(&mut self, meetings: Vec<MeetingId>, reason: &str) {
        for meeting in meetings {
            // The servers' own look-ups may have brought its legs meanwhile.
            let known = self.is_whole(meeting) && !self.legs.of(meeting).is_empty();
            for waiting in self.unplaced.remove(&meeting).into_iter().flatten() {
                self.waiting = self.waiting.saturating_sub(1);
                if known {
                    self.run(waiting);
                } else {
                    self.refuse(&waiting, ErrorCode::UNAVAILABLE, reason);
                }
            }
            if known {
                self.tell_end(meeting);
                for leg in self.legs_of(meeting) {
                    self.send_unsent(leg);
                }
            } else if self.ends.contains_key(&meeting) || self.awaits_siblings(meeting) {
                // What stands open on it needs it all the same.
                tracing::warn!(%meeting, "its legs could not be read: {reason}; they are read again");
                self.unread_meetings.push(self.now + self.settings.round_retry, meeting);
            }
        }
    }

    /// Reads again what could not be read.
    pub(super) fn read_meetings_again(&mut self) {
        let due: BTreeSet<MeetingId> = self.unread_meetings.take_due(self.now).into_iter().collect();
        if !due.is_empty() {
            self.read_meetings(due.into_iter().collect());
        }
    }

    /// Legs that a command's intents stand on without their meeting being in memory: somebody else reads them whole.
    pub(super) fn legs_read(&mut self, legs: &[LegId], found: LookUp) {
        for found in found.found {
            self.take_found(found);
        }
        for leg in legs {
            self.settle_if_ended(*leg);
        }
    }

    /// The meeting is in memory, whole.
    pub(super) fn run(&mut self, waiting: Waiting) {
        let meeting = waiting.command.meeting;
        let live = self.live_legs_of(meeting);
        let Some(first) = live.first().or(self.legs_of(meeting).first()).copied() else {
            return self.refuse(&waiting, ErrorCode::ENDED, "the meeting has ended");
        };
        match &waiting.command.op {
            ClientOp::Create(create) => {
                let create = create.clone();
                self.create_again(first, &waiting, &create);
            }
            ClientOp::Mark(_) if live.is_empty() => self.run_on(first, waiting),
            ClientOp::Mark(flag) => {
                let flag = *flag;
                self.mark_first(&live, &waiting, flag);
            }
            ClientOp::AddLeg(_) if live.is_empty() => self.run_on(first, waiting),
            ClientOp::AddLeg(add) => {
                let add = add.clone();
                self.add_leg(&waiting, &add, None);
            }
            _ if live.len() < 2 => self.run_on(first, waiting),
            ClientOp::Start | ClientOp::End => self.joint(meeting, waiting, false),
            _ => self.route(meeting, first, waiting),
        }
    }

    /// Legs that an operation on a terminal may be for.
    fn candidates(&self, meeting: MeetingId, terminal: &Number, listed: &[LegId]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for leg in self.legs_of(meeting) {
            let Some(known) = self.legs.get(&leg) else { continue };
            if !matches!(known.row.state, StoredState::InMeeting | StoredState::Starting | StoredState::Adopting) {
                continue;
            }
            let calls = |op: &Op| matches!(op, Op::AddTerminal(add) if add.number == *terminal);
            candidates.push(Candidate {
                leg: leg.leg,
                domain: self.servers.get(&known.row.server).map_or(known.row.domain, |server| server.domain),
                called: known.open.iter().any(|open| calls(&open.intent.op)),
                listed: listed.contains(&leg),
            });
        }
        candidates
    }

    /// A meeting of several legs: whose roster has the terminal is stored. Commands of one meeting are routed one after
    /// the other, so that they keep their order.
    fn route(&mut self, meeting: MeetingId, first: LegId, waiting: Waiting) {
        let Some(terminal) = terminal_of(&waiting.command.op) else { return };
        match self.candidates(meeting, terminal, &[]).as_slice() {
            [] => return self.run_on(first, waiting),
            [only] => return self.run_on(LegId { meeting, leg: only.leg }, waiting),
            _ => {}
        }
        let full = self.waiting >= self.settings.waiting_total;
        let queue = self.unrouted.entry(meeting).or_default();
        if full || queue.len() >= self.settings.waiting_per_leg {
            return self.refuse(&waiting, ErrorCode::RETRY, "too many commands wait for the meeting");
        }
        self.waiting += 1;
        queue.push(waiting);
        if queue.len() == 1 {
            self.read_roster(meeting);
        }
    }

    /// Asks for the legs that have the terminal of the meeting's first command that waits to be routed.
    pub(super) fn read_roster(&mut self, meeting: MeetingId) {
        let front = self.unrouted.get(&meeting).and_then(|queue| queue.first());
        let asked = front
            .and_then(|waiting| Some((CommandId::from(&waiting.command), terminal_of(&waiting.command.op)?.clone())));
        let Some((asker, terminal)) = asked else {
            self.unrouted.remove(&meeting);
            return;
        };
        let id = self.read_id();
        self.reads.insert(id, Reading::Roster(meeting, asker));
        self.put(Output::Read { id, read: Read::Roster { meeting, terminal } });
    }

    /// What was read for a command. One that has waited too long meanwhile is answered already, and the next has asked.
    pub(super) fn roster_read(&mut self, meeting: MeetingId, asker: CommandId, listed: Result<Vec<LegId>, String>) {
        let is_asker = |waiting: &Waiting| CommandId::from(&waiting.command) == asker;
        let queue = self.unrouted.get_mut(&meeting).filter(|queue| queue.first().is_some_and(is_asker));
        let Some(waiting) = queue.map(|queue| queue.remove(0)) else { return };
        self.waiting = self.waiting.saturating_sub(1);
        match (listed, terminal_of(&waiting.command.op)) {
            (Err(reason), _) => self.refuse(&waiting, ErrorCode::UNAVAILABLE, &reason),
            (Ok(listed), Some(terminal)) => {
                let candidates = self.candidates(meeting, terminal, &listed);
                match owner_of(&waiting.command.op, &candidates) {
                    Some(leg) => self.run_on(LegId { meeting, leg }, waiting),
                    // They have ended, or are ending, since it was asked.
                    None if candidates.is_empty() => self.run(waiting),
                    None => {
                        self.refuse(&waiting, ErrorCode::UNKNOWN_TERMINAL, "no leg of the meeting has this terminal");
                    }
                }
            }
            (Ok(_), None) => {}
        }
        self.read_roster(meeting);
    }
}
