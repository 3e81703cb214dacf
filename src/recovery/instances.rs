//! Client command ids (rule 11): the first answer of each command is kept, a repeat gets it, a number
//! below the kept ones never runs.

use super::{Command, Waiter};
use crate::guard::{Guard, holds};
use crate::model::{ClientAnswerRow, CommandId};
use crate::store::Instance;
use remeet_protocol::message::{ClientAnswer, ClientCommand};
use remeet_protocol::wire::Text;
use remeet_protocol::{ErrorCode, MeetingId};
use std::collections::{BTreeMap, BTreeSet};

/// Commands that may wait for their instance to be read. A client has at most 128 in flight.
const UNREAD_MAX: usize = 1_024;

/// What is known of client instances; the least recently used beyond a bound leave memory, and are read
/// again from the store when they come back.
#[derive(Debug)]
pub(super) struct Instances {
    known: BTreeMap<u64, Known>,
    by_use: BTreeSet<(u64, u64)>,
    clock: u64,
    instances_max: usize,
    answers_max: usize,
}

#[derive(Debug, Default)]
struct Known {
    /// Commands that wait for the instance to be read; `None` once it is.
    unread: Option<Vec<Command>>,
    /// Commands that were answered since the read was asked: it may have found them open. Empty once it is read.
    settled: BTreeSet<u64>,
    answers: BTreeMap<u64, ClientAnswer>,
    pruned: u64,
    in_flight: BTreeMap<u64, Vec<Waiter>>,
    used: u64,
}

/// What a command's id says.
#[derive(Debug)]
pub(super) enum Repeat {
    /// Never seen: run it.
    New(Command),
    /// Answered before.
    Answered(Box<ClientAnswer>),
    /// Under way: it is answered with the first one.
    Joined,
    /// Below the kept answers.
    TooOld,
    /// The instance must be read first: this is its first command.
    Read,
    /// The instance is being read.
    Waits,
    /// Too many wait.
    Full,
}

impl Instances {
    pub(super) fn new(instances_max: usize, answers_max: usize) -> Self {
        Self { known: BTreeMap::new(), by_use: BTreeSet::new(), clock: 0, instances_max, answers_max }
    }

    /// Looks a command's id up; a new one counts as in flight from now on.
    pub(super) fn admit(&mut self, command: Command) -> Repeat {
        let (instance, number) = (command.command.instance, command.command.number);
        self.touch(instance);
        let Some(known) = self.known.get_mut(&instance) else { return Repeat::Full };
        if let Some(unread) = &mut known.unread {
            if unread.len() >= UNREAD_MAX {
                return Repeat::Full;
            }
            unread.push(command);
            return if unread.len() == 1 { Repeat::Read } else { Repeat::Waits };
        }
        if let Some(answer) = known.answers.get(&number).filter(|_| holds(Guard::ClientCommandIds)) {
            return Repeat::Answered(Box::new(answer.clone()));
        }
        if let Some(waiters) = known.in_flight.get_mut(&number).filter(|_| holds(Guard::ClientCommandIds)) {
            // A repeat replaces waiters that are gone; a client asks from one connection at a time.
            waiters.retain(|waiter| *waiter != command.waiter);
            waiters.push(command.waiter);
            if waiters.len() > 4 {
                waiters.remove(0);
            }
            return Repeat::Joined;
        }
        if number <= known.pruned {
            return Repeat::TooOld;
        }
        known.in_flight.insert(number, vec![command.waiter]);
        Repeat::New(command)
    }

    /// The instance was read: its waiting commands may be admitted again.
    pub(super) fn loaded(&mut self, instance: u64, kept: Instance) -> Vec<Command> {
        let Some(known) = self.known.get_mut(&instance) else { return Vec::new() };
        for row in kept.answers {
            known.answers.insert(row.command.number, answer_of(&row));
        }
        known.pruned = known.pruned.max(kept.pruned);
        let settled = std::mem::take(&mut known.settled);
        for (number, ..) in kept.open.into_iter().filter(|(number, ..)| !settled.contains(number)) {
            known.in_flight.entry(number).or_default();
        }
        known.unread.take().unwrap_or_default()
    }

    /// The instance could not be read.
    pub(super) fn unread(&mut self, instance: u64) -> Vec<Command> {
        self.forget(instance).and_then(|known| known.unread).unwrap_or_default()
    }

    /// A command's answer is stored: it is kept, and whoever waits gets it. A command may be settled a second time, by
    /// a leg that was read while the first result was on its way: the first answer stays, as it does in the store.
    pub(super) fn answered(&mut self, answer: ClientAnswer) -> (Vec<Waiter>, ClientAnswer) {
        let answers_max = self.answers_max;
        let Some(known) = self.known.get_mut(&answer.instance) else { return (Vec::new(), answer) };
        let waiters = known.in_flight.remove(&answer.number).unwrap_or_default();
        if known.unread.is_some() {
            known.settled.insert(answer.number);
        }
        let first = known.answers.entry(answer.number).or_insert(answer).clone();
        while known.answers.len() > answers_max {
            if let Some((number, _)) = known.answers.pop_first() {
                known.pruned = known.pruned.max(number);
            }
        }
        (waiters, first)
    }

    /// A command had no effect and its answer is not kept: it may be sent again.
    pub(super) fn dropped(&mut self, instance: u64, number: u64) -> Vec<Waiter> {
        self.known.get_mut(&instance).and_then(|known| known.in_flight.remove(&number)).unwrap_or_default()
    }

    fn touch(&mut self, instance: u64) {
        self.clock += 1;
        let clock = self.clock;
        let known =
            self.known.entry(instance).or_insert_with(|| Known { unread: Some(Vec::new()), ..Known::default() });
        self.by_use.remove(&(known.used, instance));
        known.used = clock;
        self.by_use.insert((clock, instance));
        while self.known.len() > self.instances_max {
            let idle = self.by_use.iter().map(|(_, instance)| *instance).find(|id| {
                self.known.get(id).is_some_and(|known| known.in_flight.is_empty() && known.unread.is_none())
            });
            let Some(idle) = idle else { return };
            self.forget(idle);
        }
    }

    fn forget(&mut self, instance: u64) -> Option<Known> {
        let known = self.known.remove(&instance)?;
        self.by_use.remove(&(known.used, instance));
        Some(known)
    }
}

/// A kept answer as it goes to the client.
fn answer_of(row: &ClientAnswerRow) -> ClientAnswer {
    ClientAnswer {
        instance: row.command.instance,
        number: row.command.number,
        code: row.code,
        retry_after_ms: 0,
        detail: Text::cut(&row.detail),
        meeting: row.meeting,
    }
}

/// The answer to a command of which nothing was stored.
pub(super) fn put_off(command: CommandId, meeting: MeetingId) -> ClientAnswer {
    ClientAnswer {
        instance: command.instance,
        number: command.number,
        code: ErrorCode::RETRY,
        retry_after_ms: super::core::retry_after_ms(ErrorCode::RETRY),
        detail: Text::cut("the meeting's row changed meanwhile: ask again"),
        meeting,
    }
}

/// An answer to a command.
pub(super) fn answer(command: &ClientCommand, code: ErrorCode, detail: &str, meeting: MeetingId) -> ClientAnswer {
    ClientAnswer {
        instance: command.instance,
        number: command.number,
        code,
        retry_after_ms: super::core::retry_after_ms(code),
        detail: Text::cut(detail),
        meeting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::Rights;
    use remeet_protocol::LegId;
    use remeet_protocol::message::ClientOp;

    fn command(number: u64) -> Command {
        let command = ClientCommand { instance: 1, number, meeting: MeetingId::default(), op: ClientOp::Start };
        Command { waiter: Waiter(number), rights: Rights::default(), command }
    }

    fn settled(number: u64, code: ErrorCode, detail: &str) -> ClientAnswer {
        answer(&command(number).command, code, detail, MeetingId::default())
    }

    /// Found by the simulation (seed 20309): the read had found it open, its answer was pruned since, and whoever asked once
    /// more waited for a result that had come.
    #[test]
    fn a_command_that_is_settled_while_its_instance_is_read_is_not_in_flight_after_it() {
        let mut instances = Instances::new(10, 1);
        assert!(matches!(instances.admit(command(9)), Repeat::Read));
        instances.answered(settled(7, ErrorCode::OK, "done"));
        let leg = LegId { meeting: MeetingId::default(), leg: 0 };
        let read = Instance { open: vec![(7, leg, 1), (8, leg, 2)], ..Instance::default() };
        assert_eq!(instances.loaded(1, read).len(), 1);
        assert!(matches!(instances.admit(command(8)), Repeat::Joined), "that one is open still");
        instances.answered(settled(9, ErrorCode::OK, "pushes the other's answer out"));
        assert!(matches!(instances.admit(command(7)), Repeat::TooOld));
    }

    #[test]
    fn rule_11_the_first_answer_stays_also_if_the_command_is_settled_a_second_time() {
        let mut instances = Instances::new(10, 4);
        assert!(matches!(instances.admit(command(7)), Repeat::Read));
        let waiting = instances.loaded(1, Instance::default());
        assert!(waiting.into_iter().all(|command| matches!(instances.admit(command), Repeat::New(_))));
        let (waiters, told) = instances.answered(settled(7, ErrorCode::OK, "done"));
        assert_eq!((waiters, told.code), (vec![Waiter(7)], ErrorCode::OK));
        let (waiters, told) = instances.answered(settled(7, ErrorCode::ENDED, "the meeting has ended"));
        assert_eq!((waiters, told.code, told.detail.as_str()), (Vec::new(), ErrorCode::OK, "done"));
        let Repeat::Answered(kept) = instances.admit(command(7)) else { panic!("it is kept") };
        assert_eq!((kept.code, kept.detail.as_str()), (ErrorCode::OK, "done"));
    }
}
