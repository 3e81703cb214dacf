//! What is not in flight yet: four lanes of questions that wait for their turn, and requests that wait
//! for the store (persist, then send).

use super::question::{Lane, Question};
use super::{PersistId, Request, Settings, Ticket};
use crate::model::Moment;
use std::collections::{BTreeMap, VecDeque};

/// A question that waits for its turn.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) question: Question,
    pub(super) since: Moment,
}

/// Which questions may leave now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    /// The session is attached.
    pub(super) control: bool,
    /// The commands' part of the window has room.
    pub(super) commands: bool,
    /// The pulls' part of the window has room.
    pub(super) pulls: bool,
}

/// The queues. Bounded by [`Settings`].
#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: [VecDeque<Waiting>; 4],
    held: BTreeMap<PersistId, Vec<(Ticket, Request)>>,
    held_count: usize,
    settled: BTreeMap<PersistId, bool>,
    settled_order: VecDeque<PersistId>,
    commands_in_row: u32,
}

impl Queue {
    /// Questions in a lane.
    pub(super) fn len(&self, lane: Lane) -> usize {
        self.lanes[lane as usize].len()
    }

    /// Requests that wait for the store.
    pub(super) fn held(&self) -> usize {
        self.held_count
    }

    /// Queues a question; gives it back if its lane is full.
    pub(super) fn push(&mut self, waiting: Waiting, settings: &Settings) -> Result<(), Waiting> {
        let lane = waiting.question.lane();
        let max = match lane {
            Lane::Urgent => settings.urgent_max,
            Lane::Takeover => settings.takeovers_max,
            Lane::Command => settings.commands_max,
            Lane::Pull => settings.pulls_max,
        };
        if self.len(lane) >= max {
            return Err(waiting);
        }
        self.lanes[lane as usize].push_back(waiting);
        Ok(())
    }

    /// The next question to leave.
    pub(super) fn next(&mut self, open: Open, settings: &Settings) -> Option<Waiting> {
        let pull_waits = open.pulls && self.len(Lane::Pull) > 0;
        let pull_turn = pull_waits && self.commands_in_row >= settings.commands_before_pull;
        let lane = Lane::ALL.into_iter().find(|lane| {
            let passed_over = match lane {
                Lane::Command => pull_turn || !open.commands,
                Lane::Pull => !open.pulls,
                Lane::Urgent | Lane::Takeover => false,
            };
            !passed_over && (open.control || !lane.needs_control()) && self.len(*lane) > 0
        })?;
        match lane {
            Lane::Command => self.commands_in_row = self.commands_in_row.saturating_add(1),
            Lane::Pull => self.commands_in_row = 0,
            Lane::Urgent | Lane::Takeover => {}
        }
        self.lanes[lane as usize].pop_front()
    }

    /// A question that has waited longer than it may. Lanes are in order of asking, so only their heads
    /// are looked at.
    pub(super) fn expired(&mut self, now: Moment, settings: &Settings) -> Option<Waiting> {
        self.lanes
            .iter_mut()
            .find(|lane| lane.front().is_some_and(|head| head.since + settings.queue_deadline <= now))?
            .pop_front()
    }

    /// When the next question expires.
    pub(super) fn next_expiry(&self, settings: &Settings) -> Option<Moment> {
        self.lanes.iter().filter_map(VecDeque::front).map(|head| head.since + settings.queue_deadline).min()
    }

    /// Takes out what satisfies `of`, in the order of sending.
    pub(super) fn drain(&mut self, of: impl Fn(&Question) -> bool) -> Vec<Waiting> {
        let mut drained = Vec::new();
        for lane in &mut self.lanes {
            let (out, kept): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(lane).into_iter().partition(|waiting| of(&waiting.question));
            drained.extend(out);
            *lane = kept;
        }
        drained
    }

    /// Holds a request until the store has settled `after`; gives it back if there is no room.
    pub(super) fn hold(
        &mut self,
        after: PersistId,
        ticket: Ticket,
        request: Request,
        settings: &Settings,
    ) -> Option<Request> {
        if self.held_count >= settings.held_max {
            return Some(request);
        }
        self.held_count += 1;
        self.held.entry(after).or_default().push((ticket, request));
        None
    }

    /// Whether `id` has been stored (`Some(true)`) or dropped, if that is remembered.
    pub(super) fn settled(&self, id: PersistId) -> Option<bool> {
        self.settled.get(&id).copied()
    }

    /// The store has settled `id`: what awaited it. A dropped id stays dropped, whatever comes later.
    pub(super) fn settle(&mut self, id: PersistId, stored: bool, settings: &Settings) -> Vec<(Ticket, Request)> {
        if self.settled.get(&id) == Some(&false) {
            return Vec::new();
        }
        if self.settled.insert(id, stored).is_none() {
            self.settled_order.push_back(id);
        }
        while self.settled_order.len() > settings.settled_max {
            if let Some(oldest) = self.settled_order.pop_front() {
                self.settled.remove(&oldest);
            }
        }
        let awaiting = self.held.remove(&id).unwrap_or_default();
        self.held_count -= awaiting.len();
        awaiting
    }

    /// Everything that waits for the store and satisfies `of`.
    pub(super) fn drain_held(&mut self, of: impl Fn(&Request) -> bool) -> Vec<(Ticket, Request)> {
        let mut drained = Vec::new();
        for (id, requests) in std::mem::take(&mut self.held) {
            let (out, kept): (Vec<_>, Vec<_>) = requests.into_iter().partition(|(_, request)| of(request));
            drained.extend(out);
            if !kept.is_empty() {
                self.held.insert(id, kept);
            }
        }
        self.held_count -= drained.len();
        drained
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::session::samples::{claim, command, leg};
    use remeet_protocol::Handle;

    fn fill(queue: &mut Queue, request: Request, count: u64) {
        let settings = Settings::default();
        for number in 0..count {
            for question in Question::from_request(request.clone(), &settings) {
                queue.push(Waiting { ticket: Ticket(number), question, since: Moment(0) }, &settings).unwrap();
            }
        }
    }

    fn pull() -> Request {
        Request::Pull { handle: Handle(1), leg: leg(1), since: 0 }
    }

    #[test]
    fn lanes_go_in_order_and_pulls_do_not_starve_behind_commands() {
        let settings = Settings { commands_before_pull: 4, ..Settings::default() };
        let mut queue = Queue::default();
        fill(&mut queue, pull(), 2);
        fill(&mut queue, Request::Command(command(1, 1)), 10);
        fill(&mut queue, Request::Takeover(vec![claim(1)]), 3);
        fill(&mut queue, Request::Inventory, 1);
        let open = Open { control: true, commands: true, pulls: true };
        let mut order = String::new();
        while let Some(waiting) = queue.next(open, &settings) {
            order.push(match waiting.question.lane() {
                Lane::Urgent => 'u',
                Lane::Takeover => 't',
                Lane::Command => 'c',
                Lane::Pull => 'p',
            });
        }
        assert_eq!(order, "utttccccpccccpcc");
    }

    #[test]
    fn without_control_only_what_needs_none_leaves() {
        let mut queue = Queue::default();
        fill(&mut queue, Request::Takeover(vec![claim(1)]), 1);
        fill(&mut queue, Request::Inventory, 1);
        let open = Open { control: false, commands: true, pulls: true };
        assert_eq!(queue.next(open, &Settings::default()).unwrap().question.lane(), Lane::Urgent);
        assert!(queue.next(open, &Settings::default()).is_none());
    }

    #[test]
    fn rule_17_a_full_lane_gives_the_question_back() {
        let settings = Settings { pulls_max: 2, ..Settings::default() };
        let mut queue = Queue::default();
        fill(&mut queue, pull(), 2);
        let question = Question::from_request(pull(), &settings).remove(0);
        assert!(queue.push(Waiting { ticket: Ticket(9), question, since: Moment(0) }, &settings).is_err());
    }

    #[test]
    fn a_dropped_store_stays_dropped() {
        let settings = Settings::default();
        let mut queue = Queue::default();
        assert_eq!(queue.hold(PersistId(1), Ticket(1), Request::Inventory, &settings), None);
        assert_eq!(queue.settle(PersistId(1), false, &settings).len(), 1);
        assert_eq!(queue.hold(PersistId(1), Ticket(2), Request::Inventory, &settings), None);
        assert_eq!(queue.settle(PersistId(1), true, &settings), vec![]);
        assert_eq!(queue.settled(PersistId(1)), Some(false));
    }
}
