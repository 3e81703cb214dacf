//! The bounded queue of events: numbered within the boot id, kept until they are acknowledged, sent
//! again after each attach.
//!
//! When the queue is full, the oldest events that were not sent are replaced by one gap (SPEC E-6). It
//! remembers the tombstones whose ended events it swallowed, so that they go with its acknowledgement.

use remeet_protocol::Handle;
use remeet_protocol::message::{EndCause, Event, EventGap, Message};
use std::collections::VecDeque;

/// The most events and gaps sent and not yet acknowledged (SPEC E-4): what a receiver must buffer.
pub const IN_FLIGHT_MAX: usize = 256;

/// Events that were lost, and the legs whose ended events were among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First number lost.
    pub first: u64,
    /// Last number lost.
    pub last: u64,
    /// Tombstones to forget with an acknowledgement at or above their event's number.
    pub tombstones: Vec<(u64, Handle)>,
}

/// One item of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queued {
    /// An event.
    Event(Box<Event>),
    /// Events that were lost.
    Gap(Gap),
}

impl Queued {
    fn first(&self) -> u64 {
        match self {
            Queued::Event(event) => event.number,
            Queued::Gap(gap) => gap.first,
        }
    }

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
    sent_highest: u64,
    next: u64,
    max: usize,
}

impl EventQueue {
    /// An empty queue whose first event gets the number `next`. It holds `max` items that are not sent yet.
    #[must_use]
    pub fn new(next: u64, max: usize) -> Self {
        Self { items: VecDeque::new(), sent: 0, sent_highest: 0, next, max: max.max(1) }
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

    /// Queues an event that carries [`EventQueue::next_number`]. Answers how many events were lost for it.
    pub fn push(&mut self, event: Event) -> u64 {
        self.next = event.number + 1;
        self.items.push_back(Queued::Event(Box::new(event)));
        // What was sent is bounded by itself, and cannot be taken back.
        if self.items.len() - self.sent <= self.max {
            return 0;
        }
        // A part at once, so that an overflow costs little a change; at least the gap and one event.
        self.lose(self.sent, (self.max / 16).max(2))
    }

    /// Loses every event behind the first `kept` items: what an overflow does. Answers how many.
    pub fn overflow(&mut self, kept: usize) -> u64 {
        self.lose(kept.max(self.sent), usize::MAX)
    }

    /// Items that this session has been sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Makes one gap of `count` items from `from` on; answers how many events were among them.
    fn lose(&mut self, from: usize, count: usize) -> u64 {
        let to = from.saturating_add(count).min(self.items.len());
        if from >= to {
            return 0;
        }
        let mut gap = Gap { first: self.items[from].first(), last: 0, tombstones: Vec::new() };
        let mut lost = 0;
        for item in self.items.drain(from..to) {
            gap.last = item.last();
            match item {
                Queued::Event(event) => {
                    lost += 1;
                    if event.ended != EndCause::None {
                        gap.tombstones.push((event.number, event.handle));
                    }
                }
                Queued::Gap(older) => gap.tombstones.extend(older.tombstones),
            }
        }
        self.items.insert(from, Queued::Gap(gap));
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
        let item = self.items.get(self.sent)?;
        let message = match item {
            Queued::Event(event) => Message::Event((**event).clone()),
            Queued::Gap(gap) => Message::EventGap(EventGap { first: gap.first, last: gap.last }),
        };
        self.sent_highest = self.sent_highest.max(item.last());
        self.sent += 1;
        Some(message)
    }

    /// The last number that this session has been sent, or that was acknowledged.
    #[must_use]
    pub fn sent_upto(&self) -> u64 {
        self.items.get(self.sent).map_or(self.next, Queued::first) - 1
    }

    /// Whether an acknowledgement says something new, and of what was sent (SPEC E-3).
    #[must_use]
    pub fn can_acknowledge(&self, number: u64) -> bool {
        number <= self.sent_highest && self.items.front().is_some_and(|item| item.first() <= number)
    }

    /// Forgets everything up to `number`; answers the legs whose ended events were among it.
    pub fn acknowledge(&mut self, number: u64) -> Vec<Handle> {
        let mut forgotten = Vec::new();
        while let Some(item) = self.items.front_mut() {
            match item {
                Queued::Event(event) if event.number <= number => {
                    if event.ended != EndCause::None {
                        forgotten.push(event.handle);
                    }
                }
                Queued::Gap(gap) if gap.first <= number => {
                    gap.tombstones.retain(|(at, handle)| {
                        let forget = *at <= number;
                        if forget {
                            forgotten.push(*handle);
                        }
                        !forget
                    });
                    if gap.last > number {
                        gap.first = number + 1;
                        break;
                    }
                }
                _ => break,
            }
            self.items.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remeet_protocol::LegId;
    use remeet_protocol::record::Mark;

    fn push(queue: &mut EventQueue, ended: EndCause) -> u64 {
        let number = queue.next_number();
        queue.push(Event {
            number,
            leg: LegId { meeting: Default::default(), leg: 0 },
            handle: Handle(number),
            previous: 0,
            mark: Mark::default(),
            ended,
            changes: Vec::new(),
        })
    }

    fn send(queue: &mut EventQueue) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| queue.send())
            .map(|message| match message {
                Message::Event(event) => (event.number, event.number),
                Message::EventGap(gap) => (gap.first, gap.last),
                other => panic!("{}", other.name()),
            })
            .collect()
    }

    #[test]
    fn a_full_queue_loses_the_oldest_unsent_into_one_gap_and_keeps_its_bound() {
        let mut queue = EventQueue::new(1, 4);
        for _ in 0..2 {
            push(&mut queue, EndCause::None);
        }
        assert_eq!(send(&mut queue), [(1, 1), (2, 2)]);
        let lost: u64 = (3..=9).map(|_| push(&mut queue, EndCause::ByServer)).sum();
        assert_eq!(queue.len(), 2 + 4);
        assert_eq!(send(&mut queue), [(3, 6), (7, 7), (8, 8), (9, 9)], "what was sent stays, the newest stays");
        assert_eq!(lost, 4);
        assert_eq!(queue.acknowledge(5), [Handle(3), Handle(4), Handle(5)], "tombstones go with their numbers");
        queue.rewind();
        assert_eq!(send(&mut queue), [(6, 6), (7, 7), (8, 8), (9, 9)], "an acknowledgement inside a gap shortens it");
        assert_eq!(queue.acknowledge(9), [Handle(6), Handle(7), Handle(8), Handle(9)]);
    }

    #[test]
    fn at_most_256_are_in_flight_and_an_acknowledgement_lets_more_go() {
        let mut queue = EventQueue::new(1, 10_000);
        for _ in 0..300 {
            push(&mut queue, EndCause::None);
        }
        assert_eq!(send(&mut queue).len(), IN_FLIGHT_MAX);
        assert_eq!(queue.sent_upto(), 256);
        queue.acknowledge(10);
        assert_eq!(send(&mut queue).len(), 10);
        assert!(!queue.can_acknowledge(267), "not sent yet");
        assert!(!queue.can_acknowledge(10), "says nothing new");
        assert!(queue.can_acknowledge(266));
        queue.acknowledge(266);
        assert_eq!((queue.len(), queue.sent_upto()), (34, 266));
    }

    #[test]
    fn an_overflow_on_demand_keeps_what_was_sent() {
        let mut queue = EventQueue::new(1, 100);
        push(&mut queue, EndCause::None);
        send(&mut queue);
        for _ in 0..4 {
            push(&mut queue, EndCause::None);
        }
        assert_eq!(queue.overflow(0), 4);
        queue.rewind();
        assert_eq!(send(&mut queue), [(1, 1), (2, 5)]);
    }
}
