//! The bounded queue of events: numbered within the boot id, kept until they are acknowledged, sent
//! again after each attach.
//!
//! When the queue is full, new changes are lost into an [`EventGap`] at its end; what was queued before
//! stays. Ended events are never lost: each stands for a tombstone, of which there are no more than
//! legs, so the queue holds at most `max` + 2 × legs items.

use remeet_protocol::Handle;
use remeet_protocol::message::{EndCause, Event, EventGap, Message};
use std::collections::VecDeque;

/// The most events and gaps sent and not yet acknowledged (SPEC E-6): what a receiver must buffer.
pub const IN_FLIGHT_MAX: usize = 256;

/// One item of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queued {
    /// An event.
    Event(Box<Event>),
    /// Events that were lost.
    Gap(EventGap),
}

impl Queued {
    fn last(&self) -> u64 {
        match self {
            Queued::Event(event) => event.number,
            Queued::Gap(gap) => gap.last,
        }
    }
}

/// The queue.
#[derive(Debug, Clone)]
pub struct EventQueue {
    items: VecDeque<Queued>,
    sent: usize,
    next: u64,
    max: usize,
}

impl EventQueue {
    /// An empty queue whose first event gets the number `next`.
    #[must_use]
    pub fn new(next: u64, max: usize) -> Self {
        Self { items: VecDeque::new(), sent: 0, next, max }
    }

    /// The number of the next event.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Items waiting for an acknowledgement.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Queues an event that carries [`EventQueue::next_number`]; false if it was lost into a gap.
    pub fn push(&mut self, event: Event) -> bool {
        let number = event.number;
        self.next = number + 1;
        if self.items.len() < self.max || event.ended != EndCause::None {
            self.items.push_back(Queued::Event(Box::new(event)));
            return true;
        }
        self.lose(number, number);
        false
    }

    fn lose(&mut self, first: u64, last: u64) {
        let tail_is_unsent = self.sent < self.items.len();
        match self.items.back_mut() {
            Some(Queued::Gap(gap)) if tail_is_unsent => gap.last = last,
            _ => self.items.push_back(Queued::Gap(EventGap { first, last })),
        }
    }

    /// Items that this session has been sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Loses every event behind the first `kept` items, ended events excepted: what an overflow does.
    /// Answers how many were lost.
    pub fn overflow(&mut self, kept: usize) -> u64 {
        let unsent = self.items.split_off(kept.max(self.sent).min(self.items.len()));
        let mut lost = 0;
        for item in unsent {
            match item {
                Queued::Event(event) if event.ended != EndCause::None => self.items.push_back(Queued::Event(event)),
                Queued::Event(event) => {
                    lost += 1;
                    self.lose(event.number, event.number);
                }
                Queued::Gap(gap) => self.lose(gap.first, gap.last),
            }
        }
        lost
    }

    /// Puts back an item of a snapshot.
    pub fn restore(&mut self, item: Queued) {
        self.next = self.next.max(item.last() + 1);
        self.items.push_back(item);
    }

    /// Every item, oldest first.
    pub fn items(&self) -> impl Iterator<Item = &Queued> {
        self.items.iter()
    }

    /// A new session: everything not acknowledged is sent again.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// The next message for the session, while fewer than [`IN_FLIGHT_MAX`] are unacknowledged.
    pub fn send(&mut self) -> Option<Message> {
        if self.sent >= IN_FLIGHT_MAX {
            return None;
        }
        let message = match self.items.get(self.sent)? {
            Queued::Event(event) => Message::Event((**event).clone()),
            Queued::Gap(gap) => Message::EventGap(gap.clone()),
        };
        self.sent += 1;
        Some(message)
    }

    /// The last number that this session has been sent, or that was acknowledged.
    #[must_use]
    pub fn sent_upto(&self) -> u64 {
        match self.items.get(self.sent) {
            Some(Queued::Event(event)) => event.number - 1,
            Some(Queued::Gap(gap)) => gap.first - 1,
            None => self.next - 1,
        }
    }

    /// Forgets everything up to `number`; answers the legs whose ended events were among it. A number
    /// that was never given counts as the last one given.
    pub fn acknowledge(&mut self, number: u64) -> Vec<Handle> {
        let number = number.min(self.next - 1);
        let mut tombstones = Vec::new();
        while let Some(item) = self.items.front_mut() {
            match item {
                Queued::Event(event) if event.number <= number => {
                    if event.ended != EndCause::None {
                        tombstones.push(event.handle);
                    }
                }
                Queued::Gap(gap) if gap.last <= number => {}
                Queued::Gap(gap) => {
                    gap.first = gap.first.max(number + 1);
                    break;
                }
                Queued::Event(_) => break,
            }
            self.items.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        tombstones
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remeet_protocol::LegId;
    use remeet_protocol::record::Mark;

    fn event(queue: &EventQueue, ended: EndCause) -> Event {
        Event {
            number: queue.next_number(),
            leg: LegId { meeting: Default::default(), leg: 0 },
            handle: Handle(queue.next_number()),
            previous: 0,
            mark: Mark::default(),
            ended,
            changes: Vec::new(),
        }
    }

    fn numbers(queue: &mut EventQueue) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| queue.send())
            .map(|message| match message {
                Message::Event(event) => (event.number, event.number),
                Message::EventGap(gap) => (gap.first, gap.last),
                other => panic!("{}", other.name()),
            })
            .collect()
    }

    #[test]
    fn a_full_queue_loses_the_newest_into_one_gap_but_never_an_ended_event() {
        let mut queue = EventQueue::new(1, 2);
        for ended in [EndCause::None, EndCause::None, EndCause::None, EndCause::None, EndCause::ByServer] {
            queue.push(event(&queue, ended));
        }
        queue.push(event(&queue, EndCause::None));
        assert_eq!(numbers(&mut queue), [(1, 1), (2, 2), (3, 4), (5, 5), (6, 6)]);
        assert_eq!(queue.sent_upto(), 6);
        assert_eq!(queue.acknowledge(5), [Handle(5)]);
        queue.rewind();
        assert_eq!(numbers(&mut queue), [(6, 6)]);
    }

    #[test]
    fn at_most_256_are_in_flight_and_an_acknowledgement_lets_more_go() {
        let mut queue = EventQueue::new(1, 10_000);
        for _ in 0..300 {
            queue.push(event(&queue, EndCause::None));
        }
        assert_eq!(numbers(&mut queue).len(), IN_FLIGHT_MAX);
        assert_eq!(queue.sent_upto(), 256);
        queue.acknowledge(10);
        assert_eq!(numbers(&mut queue).len(), 10);
        queue.acknowledge(u64::MAX - 1);
        assert!(queue.is_empty());
        assert_eq!(queue.sent_upto(), 300);
    }

    #[test]
    fn an_acknowledgement_inside_a_gap_shortens_it() {
        let mut queue = EventQueue::new(1, 1);
        for _ in 0..6 {
            queue.push(event(&queue, EndCause::None));
        }
        queue.acknowledge(3);
        assert_eq!(numbers(&mut queue), [(4, 6)]);
    }

    #[test]
    fn an_overflow_keeps_what_was_sent_and_every_ended_event() {
        let mut queue = EventQueue::new(1, 100);
        queue.push(event(&queue, EndCause::None));
        queue.send();
        for ended in [EndCause::None, EndCause::ByServer, EndCause::None, EndCause::None] {
            queue.push(event(&queue, ended));
        }
        assert_eq!(queue.overflow(1), 3);
        queue.rewind();
        assert_eq!(numbers(&mut queue), [(1, 1), (2, 2), (3, 3), (4, 5)]);
    }
}
