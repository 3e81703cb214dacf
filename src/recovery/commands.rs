//! Client commands: intent committed, sent, result committed, client answered (design §3). On a leg that
//! is being recovered they wait, bounded and with a deadline, or are answered `retry`.

use super::core::{After, Core, Reading};
use super::instances::{Repeat, answer};
use super::takeover::UNSTARTED;
use super::{Command, Output, Read, Rights};
use crate::cascade::terminal_of;
use crate::model::{ClientAnswerRow, CommandId, Moment, StoredState};
use crate::store::{Instance, Unit, Write};
use remeet_protocol::message::{ClientAnswer, ClientCommand, ClientOp};
use remeet_protocol::{ErrorCode, LegId};
use std::collections::BTreeSet;
use thin_vec::ThinVec;

/// A command that waits for its meeting.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub rights: Rights,
    pub command: ClientCommand,
    pub deadline: Moment,
}

/// Takes those whose deadline has passed: they wait in the order of their deadlines.
fn late_of(queue: &mut ThinVec<Waiting>, now: Moment) -> Vec<Waiting> {
    let late = queue.iter().take_while(|waiting| waiting.deadline <= now).count();
    queue.drain(..late).collect()
}

impl Core {
    pub(super) fn command(&mut self, command: Command) {
        let needs_operator = matches!(command.command.op, ClientOp::Mark(_) | ClientOp::Adopt(_));
        let allowed = if needs_operator { command.rights.operator } else { command.rights.control };
        if !allowed {
            let detail =
                if needs_operator { "this needs the operator's right" } else { "this needs the control right" };
            return self.answer_now(command.waiter, &command.command, ErrorCode::NOT_ALLOWED, detail);
        }
        if self.token.is_none() {
            let detail = "the scheduler has no term yet: it waits for the database";
            return self.answer_now(command.waiter, &command.command, ErrorCode::UNAVAILABLE, detail);
        }
        self.admit(command);
    }

    fn admit(&mut self, command: Command) {
        let (waiter, sent) = (command.waiter, command.command.clone());
        match self.instances.admit(command) {
            Repeat::New(command) => {
                let deadline = self.now + self.settings.waiting_deadline;
                self.place(Waiting { rights: command.rights, command: command.command, deadline });
            }
            Repeat::Answered(answer) => self.put(Output::Answer(waiter, *answer)),
            Repeat::Joined | Repeat::Waits => {}
            Repeat::TooOld => {
                let detail = "a command of this number may have run; its answer is no longer kept";
                self.answer_now(waiter, &sent, ErrorCode::TOO_OLD, detail);
            }
            Repeat::Read => {
                let id = self.read_id();
                self.reads.insert(id, Reading::Instance(sent.instance));
                self.put(Output::Read { id, read: Read::Instance(sent.instance) });
            }
            Repeat::Full => self.answer_now(waiter, &sent, ErrorCode::RETRY, "too many commands wait"),
        }
    }

    pub(super) fn instance_read(&mut self, instance: u64, kept: Instance) {
        // Intents of legs that are not in memory: the leg may have ended, and nobody else would read it.
        let legs: BTreeSet<LegId> = kept.open.iter().map(|(_, leg, _)| *leg).collect();
        self.read_open(legs.into_iter().collect());
        for command in self.instances.loaded(instance, kept) {
            self.admit(command);
        }
    }

    fn read_open(&mut self, mut legs: Vec<LegId>) {
        legs.retain(|leg| !self.legs.contains_key(leg));
        if !legs.is_empty() {
            let id = self.read_id();
            self.reads.insert(id, Reading::Legs(legs.clone()));
            self.put(Output::Read { id, read: Read::Legs(legs) });
        }
    }

    /// They are read again after a while: the client that asks once more finds its command running, and waits for that.
    pub(super) fn open_unread(&mut self, legs: Vec<LegId>, reason: &str) {
        tracing::warn!(legs = legs.len(), "open commands could not be read: {reason}");
        self.unread_open.push(self.now + self.settings.round_retry, legs);
    }

    pub(super) fn read_open_again(&mut self) {
        self.unread_open.take_due(self.now).into_iter().for_each(|legs| self.read_open(legs));
    }

    pub(super) fn instance_unread(&mut self, instance: u64, reason: &str) {
        for command in self.instances.unread(instance) {
            self.answer_now(command.waiter, &command.command, ErrorCode::UNAVAILABLE, reason);
        }
    }

    /// Carries a command out on a leg.
    pub(super) fn run_on(&mut self, leg: LegId, waiting: Waiting) {
        let Some(known) = self.legs.get(&leg) else { return };
        let attached = self.servers.get(&known.row.server).is_some_and(|server| server.attached.is_some());
        match (&waiting.command.op, known.row.state) {
            // Ending what has ended is done (SPEC K-6).
            (ClientOp::End, StoredState::Ended) => self.refuse(&waiting, ErrorCode::OK, "it had ended"),
            (_, StoredState::Ended) => self.refuse(&waiting, ErrorCode::ENDED, "the meeting has ended"),
            (ClientOp::Start, StoredState::Created) if attached => self.start(leg, &waiting),
            (ClientOp::Start, StoredState::Created) => self.wait(leg, waiting),
            // Starting what has started is done (SPEC K-6); one under way is waited for.
            (ClientOp::Start, StoredState::InMeeting) => self.refuse(&waiting, ErrorCode::OK, "it had started"),
            (ClientOp::End, StoredState::Created) => self.end_created(leg, &waiting),
            // As the alarm says that an operator should do.
            (ClientOp::End, StoredState::Starting) if self.is_unstarted(leg) => self.end_created(leg, &waiting),
            (_, StoredState::Created) => {
                self.refuse(&waiting, ErrorCode::WRONG_STATE, "the meeting is not started: start it first");
            }
            (_, StoredState::Ending) => self.refuse(&waiting, ErrorCode::WRONG_STATE, "the meeting is being ended"),
            (_, StoredState::InMeeting) if known.is_ours(self.token) => self.intend(leg, &waiting),
            (_, StoredState::InMeeting | StoredState::Starting | StoredState::Adopting) => self.wait(leg, waiting),
        }
    }

    /// It stands as starting, its server does not have it, and nothing is open that would start it.
    fn is_unstarted(&self, leg: LegId) -> bool {
        let Some(known) = self.legs.get(&leg).filter(|known| known.open.is_empty()) else { return false };
        let server = self.servers.get(&known.row.server);
        server.is_some_and(|server| server.pending.get(&leg).is_some_and(|reason| *reason == UNSTARTED))
    }

    pub(super) fn wait(&mut self, leg: LegId, waiting: Waiting) {
        let full = self.waiting >= self.settings.waiting_total;
        let per_leg = self.settings.waiting_per_leg;
        match self.legs.get_mut(&leg) {
            Some(known) if known.waiting.len() < per_leg && !full => {
                self.waiting += 1;
                if known.waiting.is_empty() {
                    self.waits.insert((waiting.deadline, leg));
                }
                known.waiting.push(waiting);
            }
            _ => self.refuse(&waiting, ErrorCode::RETRY, "too many commands wait for the meeting's recovery"),
        }
    }

    /// Nothing waits for the leg any more: what did.
    pub(super) fn take_waiting(&mut self, leg: LegId) -> ThinVec<Waiting> {
        let Some(known) = self.legs.get_mut(&leg) else { return ThinVec::new() };
        let waiting = std::mem::take(&mut known.waiting);
        if let Some(first) = waiting.first() {
            self.waits.remove(&(first.deadline, leg));
        }
        self.waiting = self.waiting.saturating_sub(waiting.len());
        waiting
    }

    /// The leg is ours: what waited for it runs, in order.
    pub(super) fn flush_waiting(&mut self, leg: LegId) {
        for waiting in self.take_waiting(leg) {
            match terminal_of(&waiting.command.op) {
                Some(_) => self.run_on(leg, waiting),
                None => self.run(waiting),
            }
        }
    }

    pub(super) fn waiting_until(&self) -> Option<Moment> {
        if self.waiting == 0 {
            return None;
        }
        let on_legs = self.waits.first().map(|(deadline, _)| *deadline);
        let elsewhere = self.unplaced.values().chain(self.unrouted.values()).filter_map(|queue| queue.first());
        elsewhere.map(|waiting| waiting.deadline).chain(on_legs).min()
    }

    pub(super) fn expire_waiting(&mut self) {
        if self.waiting == 0 {
            return;
        }
        let now = self.now;
        let mut late = Vec::new();
        while let Some((_, leg)) = self.waits.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.waits.pop_first();
            let Some(known) = self.legs.get_mut(&leg) else { continue };
            late.extend(late_of(&mut known.waiting, now).into_iter().map(|waiting| (Some(leg), waiting)));
            if let Some(first) = known.waiting.first() {
                self.waits.insert((first.deadline, leg));
            }
        }
        for queue in self.unplaced.values_mut() {
            late.extend(late_of(queue, now).into_iter().map(|waiting| (None, waiting)));
        }
        self.unplaced.retain(|_, queue| !queue.is_empty());
        let mut unrouted = Vec::new();
        for (meeting, queue) in &mut self.unrouted {
            let expired = late_of(queue, now);
            if !expired.is_empty() {
                unrouted.push(*meeting);
            }
            late.extend(expired.into_iter().map(|waiting| (None, waiting)));
        }
        for (leg, waiting) in late {
            self.waiting = self.waiting.saturating_sub(1);
            match leg {
                // A meeting's other legs need not wait for the one that is away (SPEC K-15).
                Some(leg) if self.is_joint(&waiting) => self.joint(leg.meeting, waiting, true),
                Some(leg) => self.refuse_late(leg, &waiting),
                None => self.refuse(&waiting, ErrorCode::RETRY, "the meeting could not be read in time"),
            }
        }
        // What was being read was for one that is late: the next one's turn has come.
        for meeting in unrouted {
            self.read_roster(meeting);
        }
    }

    /// The leg cannot be commanded in time.
    pub(super) fn refuse_late(&mut self, leg: LegId, waiting: &Waiting) {
        let server = self.legs.get(&leg).and_then(|known| self.servers.get(&known.row.server));
        if server.is_some_and(|server| !server.up) {
            let detail = "the meeting's server does not answer; the meeting goes on";
            self.refuse(waiting, ErrorCode::UNREACHABLE, detail);
        } else {
            self.refuse(waiting, ErrorCode::RETRY, "the meeting is not recovered yet");
        }
    }

    /// Answers a command that has no effect. What may be otherwise later is not kept, so that the same
    /// command may be sent again; what is final is kept, so that a repeat gets the same.
    pub(super) fn refuse(&mut self, waiting: &Waiting, code: ErrorCode, detail: &str) {
        if matches!(code, ErrorCode::RETRY | ErrorCode::UNAVAILABLE | ErrorCode::UNREACHABLE) {
            return self.refuse_for_now(waiting, code, detail);
        }
        let command = &waiting.command;
        let answer = answer(command, code, detail, command.meeting);
        self.answer_kept(answer);
    }

    /// Answers a command that has no effect now, and may be sent again.
    pub(super) fn refuse_for_now(&mut self, waiting: &Waiting, code: ErrorCode, detail: &str) {
        let command = &waiting.command;
        for waiter in self.instances.dropped(command.instance, command.number) {
            self.answer_now(waiter, command, code, detail);
        }
    }

    /// Commits an answer that no other write goes with.
    pub(super) fn answer_kept(&mut self, answer: ClientAnswer) {
        let unit = Unit::one(Write::Answer(self.answer_row(&answer)));
        self.persist(answer.instance, unit, After::Answered { leg: None, answer: Some(Box::new(answer)) });
    }

    pub(super) fn answer_row(&self, answer: &ClientAnswer) -> ClientAnswerRow {
        ClientAnswerRow {
            command: CommandId { instance: answer.instance, number: answer.number },
            meeting: answer.meeting,
            code: answer.code,
            detail: answer.detail.as_str().to_owned(),
            at_ms: self.wall_ms,
        }
    }

    pub(super) fn answer_stored(&mut self, answer: ClientAnswer) {
        let (waiters, first) = self.instances.answered(answer);
        for waiter in waiters {
            self.put(Output::Answer(waiter, first.clone()));
        }
    }
}
