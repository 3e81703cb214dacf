//! Events of one server: handed up in order of their numbers, once for as long as the server lives by
//! one boot id; acknowledged together (SPEC E-1 to E-8).
//!
//! Nothing says which number a server begins with after an attach, so the lowest one heard at first is
//! taken for it. On a stream it is. On a link that loses or reorders packets, `first_event_wait` gives the
//! server time to repeat what was lost; and whatever lies below the first is a gap, so that nothing is acknowledged
//! before everything was compared.

use super::{Heard, Settings};
use crate::model::Moment;
use remeet_protocol::BootId;
use remeet_protocol::message::{Event, EventGap};
use std::collections::{BTreeMap, VecDeque};

/// Numbers above this are refused: half of all there are, so that sums never overflow.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// Events that a server may have sent and not acknowledged are 256 (SPEC E-4). Beyond twice that none is taken: who
/// breaks the rule may not fill the memory while the store is away.
const OPEN_MAX: usize = 512;

/// The stream of one server's events.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    boot: Option<BootId>,
    /// The first number handed up within the boot id.
    base: u64,
    /// The last number handed up; none before the first.
    heard: Option<u64>,
    /// Events that came before a lower number: first number → (last number, what to hand up).
    waiting: BTreeMap<u64, (u64, Heard)>,
    waiting_since: Option<Moment>,
    /// Last numbers of what was handed up and is not stored.
    open: VecDeque<u64>,
    stored: u64,
    acknowledged: u64,
    ack_due: Option<Moment>,
}

/// What an offered event was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// Handed up, or held for its turn.
    Taken,
    /// Heard before.
    Repeat,
    /// A breach of the protocol, with its reason.
    Breach(String),
}

impl EventStream {
    /// The boot id of the connection: another one is another stream.
    pub(super) fn begin(&mut self, boot: BootId) {
        if self.boot != Some(boot) {
            *self = Self { boot: Some(boot), ..Self::default() };
        }
    }

    /// The link went down: the server sends again what is not acknowledged.
    pub(super) fn link_down(&mut self) {
        self.waiting.clear();
        self.waiting_since = None;
        self.ack_due = None;
    }

    /// The session is attached again: an acknowledgement may have been lost with the link.
    pub(super) fn attached(&mut self, now: Moment) {
        if self.stored > 0 {
            self.acknowledged = 0;
            self.ack_due = Some(now);
        }
    }

    /// The last number handed up.
    pub(super) fn heard(&self) -> Option<u64> {
        self.heard
    }

    /// The last number that was acknowledged to the server.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Events held for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes an event. One whose changes do not ascend is handed up as a gap: its number is used up, and
    /// its leg is to be compared.
    pub(super) fn event(
        &mut self,
        now: Moment,
        event: Event,
        settings: &Settings,
        heard: &mut VecDeque<Heard>,
    ) -> Offered {
        let number = event.number;
        let mut last = event.previous;
        for change in &event.changes {
            if change.revision <= last || change.revision > event.mark.revision {
                let gap = EventGap { first: number, last: number };
                self.offer(now, number, number, Heard::Gap(gap), settings, heard);
                return Offered::Breach(format!(
                    "event {number} of leg {} has revision {} after {last}, up to {}",
                    event.leg, change.revision, event.mark.revision
                ));
            }
            last = change.revision;
        }
        self.offer(now, number, number, Heard::Event(event), settings, heard)
    }

    /// Takes the server's word that events were lost.
    pub(super) fn gap(
        &mut self,
        now: Moment,
        gap: EventGap,
        settings: &Settings,
        heard: &mut VecDeque<Heard>,
    ) -> Offered {
        self.offer(now, gap.first, gap.last, Heard::Gap(gap), settings, heard)
    }

    fn offer(
        &mut self,
        now: Moment,
        first: u64,
        last: u64,
        item: Heard,
        settings: &Settings,
        heard: &mut VecDeque<Heard>,
    ) -> Offered {
        if first == 0 || last < first || last > NUMBER_MAX {
            return Offered::Breach(format!("event numbers {first} to {last}"));
        }
        if self.open.len() >= OPEN_MAX && self.heard.is_none_or(|heard| last > heard) {
            return Offered::Breach(format!("event {first}, with {OPEN_MAX} before it not acknowledged"));
        }
        let Some(before) = self.heard else {
            if first == 1 || settings.stream {
                self.base = first;
                self.hand_up(last, item, heard);
                self.hand_up_waiting(now, heard);
                return Offered::Taken;
            }
            return self.hold(now, first, last, item, settings, heard);
        };
        if last <= before {
            if last <= self.stored {
                // Its acknowledgement was lost: once more, soon.
                self.acknowledged = self.acknowledged.min(last - 1);
                self.ack_due.get_or_insert(now + settings.ack_delay);
            }
            if first < self.base {
                // On a stream that breaks its order; elsewhere it lies in a gap already. Too late to be in order. It and what lies
                // between were never handed up, and may be forgotten by the server: to be compared.
                heard.push_back(Heard::Gap(EventGap { first, last: self.base - 1 }));
                self.base = first;
                return Offered::Taken;
            }
            return Offered::Repeat;
        }
        if first > before + 1 {
            return self.hold(now, first, last, item, settings, heard);
        }
        self.hand_up(last, item, heard);
        self.hand_up_waiting(now, heard);
        Offered::Taken
    }

    fn hand_up(&mut self, last: u64, item: Heard, heard: &mut VecDeque<Heard>) {
        self.heard = Some(last);
        self.open.push_back(last);
        heard.push_back(item);
    }

    /// Holds an event until a lower one has come, or is given up.
    fn hold(
        &mut self,
        now: Moment,
        first: u64,
        last: u64,
        item: Heard,
        settings: &Settings,
        heard: &mut VecDeque<Heard>,
    ) -> Offered {
        if self.waiting.contains_key(&first) {
            return Offered::Repeat;
        }
        self.waiting.insert(first, (last, item));
        self.waiting_since.get_or_insert(now);
        if self.waiting.len() > settings.reorder_max {
            return self.give_up_missing(now, heard);
        }
        Offered::Taken
    }

    fn hand_up_waiting(&mut self, now: Moment, heard: &mut VecDeque<Heard>) {
        while let Some(entry) = self.waiting.first_entry() {
            let before = self.heard.unwrap_or(0);
            if *entry.key() > before + 1 {
                break;
            }
            let (last, item) = entry.remove();
            if last > before {
                self.hand_up(last, item, heard);
            }
        }
        self.waiting_since = if self.waiting.is_empty() { None } else { Some(now) };
    }

    /// What is missing below the first held event is not coming: a gap.
    fn give_up_missing(&mut self, now: Moment, heard: &mut VecDeque<Heard>) -> Offered {
        let Some(lowest) = self.waiting.keys().next().copied() else { return Offered::Taken };
        // Below the first event of all lies what an earlier term has acknowledged, or what came too early and was lost
        // since: nobody can tell, so it is compared. That is no fault of the server's.
        let begins = self.heard.is_none();
        let first = self.heard.unwrap_or(0) + 1;
        let last = lowest - 1;
        self.hand_up(last, Heard::Gap(EventGap { first, last }), heard);
        self.hand_up_waiting(now, heard);
        if begins {
            return Offered::Taken;
        }
        Offered::Breach(format!("events {first} to {last} never came, later ones did"))
    }

    /// Events up to `number` are stored. A number that was never handed up counts as the last that was.
    pub(super) fn stored(&mut self, now: Moment, number: u64, settings: &Settings) {
        let number = number.min(self.heard.unwrap_or(0));
        if number <= self.stored {
            return;
        }
        self.stored = number;
        while self.open.front().is_some_and(|last| *last <= number) {
            self.open.pop_front();
        }
        let due = if number - self.acknowledged >= settings.ack_events { now } else { now + settings.ack_delay };
        self.ack_due = Some(self.ack_due.map_or(due, |earlier| earlier.min(due)));
    }

    /// The acknowledgement that is due, if one is.
    pub(super) fn take_ack(&mut self, now: Moment) -> Option<u64> {
        self.ack_due.filter(|due| *due <= now)?;
        self.ack_due = None;
        self.acknowledged = self.stored;
        Some(self.stored)
    }

    /// When the next acknowledgement is due.
    pub(super) fn ack_due(&self) -> Option<Moment> {
        self.ack_due
    }

    /// When missing events are given up.
    pub(super) fn reorder_due(&self, settings: &Settings) -> Option<Moment> {
        let wait = if self.heard.is_some() { settings.reorder_timeout } else { settings.first_event_wait };
        self.waiting_since.map(|since| since + wait)
    }

    /// A timer is due: gives up what is missing for too long.
    pub(super) fn wake(&mut self, now: Moment, settings: &Settings, heard: &mut VecDeque<Heard>) -> Offered {
        match self.reorder_due(settings) {
            Some(due) if due <= now => self.give_up_missing(now, heard),
            _ => Offered::Taken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::samples::{event, moment_ms};
    use std::time::Duration;

    fn settings() -> Settings {
        Settings { reorder_max: 4, reorder_timeout: Duration::from_millis(500), ..Settings::default() }
    }

    /// Offers events in this order; answers what was handed up: numbers, gaps negative.
    fn hand_up(numbers: &[u64]) -> (EventStream, Vec<String>) {
        let mut stream = EventStream::default();
        stream.begin(BootId::from_bytes([1; 16]));
        let mut heard = VecDeque::new();
        for number in numbers {
            stream.event(moment_ms(0), event(*number), &settings(), &mut heard);
        }
        (stream, names(&heard))
    }

    fn names(heard: &VecDeque<Heard>) -> Vec<String> {
        heard
            .iter()
            .map(|heard| match heard {
                Heard::Event(event) => event.number.to_string(),
                Heard::Gap(gap) => format!("gap {}-{}", gap.first, gap.last),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn events_come_in_order_and_once() {
        assert_eq!(hand_up(&[7, 9, 8, 8, 7, 10]).1, ["7", "8", "9", "10"]);
    }

    #[test]
    fn a_missing_event_becomes_a_gap_when_the_buffer_is_full() {
        let (stream, names) = hand_up(&[1, 3, 4, 6, 7, 8]);
        assert_eq!(names, ["1", "gap 2-2", "3", "4"]);
        assert_eq!(stream.waiting(), 3);
    }

    #[test]
    fn a_missing_event_becomes_a_gap_after_a_while() {
        let (mut stream, _) = hand_up(&[1, 4]);
        let mut heard = VecDeque::new();
        assert_eq!(stream.wake(moment_ms(499), &settings(), &mut heard), Offered::Taken);
        assert!(heard.is_empty());
        assert!(matches!(stream.wake(moment_ms(500), &settings(), &mut heard), Offered::Breach(_)));
        assert_eq!(names(&heard), ["gap 2-3", "4"]);
        assert_eq!(stream.reorder_due(&settings()), None);
    }

    #[test]
    fn an_event_overtaken_by_the_first_one_is_reported_as_a_gap() {
        assert_eq!(hand_up(&[5, 2, 4, 2, 6, 1]).1, ["5", "gap 2-4", "6", "gap 1-1"]);
    }

    #[test]
    fn on_a_link_that_reorders_the_lowest_of_the_first_events_is_waited_for() {
        let wait = Settings { stream: false, first_event_wait: Duration::from_millis(300), ..settings() };
        let mut stream = EventStream::default();
        stream.begin(BootId::from_bytes([1; 16]));
        let mut heard = VecDeque::new();
        for number in [6, 4, 8] {
            assert_eq!(stream.event(moment_ms(0), event(number), &wait, &mut heard), Offered::Taken);
        }
        assert_eq!(names(&heard), Vec::<String>::new());
        assert_eq!(stream.reorder_due(&wait), Some(moment_ms(300)));
        assert_eq!(stream.wake(moment_ms(300), &wait, &mut heard), Offered::Taken);
        assert_eq!(names(&heard), ["gap 1-3", "4"], "of what lies below nothing is known");
        stream.event(moment_ms(301), event(5), &wait, &mut heard);
        assert_eq!(names(&heard), ["gap 1-3", "4", "5", "6"], "7 is missing still");
        let mut stream = EventStream::default();
        heard.clear();
        for number in [2, 1] {
            stream.event(moment_ms(0), event(number), &wait, &mut heard);
        }
        assert_eq!(names(&heard), ["1", "2"], "nothing lies below 1");
    }

    #[test]
    fn a_new_boot_id_begins_a_new_stream_and_the_same_one_goes_on() {
        let (mut stream, _) = hand_up(&[1, 2]);
        stream.link_down();
        stream.begin(BootId::from_bytes([1; 16]));
        let mut heard = VecDeque::new();
        assert_eq!(stream.event(moment_ms(1), event(2), &settings(), &mut heard), Offered::Repeat);
        stream.begin(BootId::from_bytes([2; 16]));
        assert_eq!(stream.event(moment_ms(1), event(1), &settings(), &mut heard), Offered::Taken);
        assert_eq!(names(&heard), ["1"]);
    }

    #[test]
    fn acknowledgements_are_put_together_and_repeated_when_lost() {
        let (mut stream, _) = hand_up(&(1..=100).collect::<Vec<_>>());
        stream.stored(moment_ms(0), 3, &settings());
        stream.stored(moment_ms(5), 4, &settings());
        assert_eq!(stream.take_ack(moment_ms(19)), None);
        assert_eq!(stream.take_ack(moment_ms(20)), Some(4));
        assert_eq!(stream.take_ack(moment_ms(90)), None, "said once");
        stream.stored(moment_ms(100), 68, &settings());
        assert_eq!(stream.take_ack(moment_ms(100)), Some(68), "64 events are acknowledged at once");
        let mut heard = VecDeque::new();
        assert_eq!(stream.event(moment_ms(200), event(60), &settings(), &mut heard), Offered::Repeat);
        assert_eq!(stream.take_ack(moment_ms(220)), Some(68), "the server has not heard it");
        assert_eq!(stream.event(moment_ms(300), event(80), &settings(), &mut heard), Offered::Repeat);
        assert_eq!(stream.ack_due(), None, "80 is not stored");
    }

    #[test]
    fn rule_17_a_server_that_sends_on_without_acknowledgements_is_not_listened_to() {
        let (mut stream, names) = hand_up(&(1..=600).collect::<Vec<_>>());
        assert_eq!(names.len(), OPEN_MAX);
        let mut heard = VecDeque::new();
        assert!(matches!(stream.event(moment_ms(1), event(513), &settings(), &mut heard), Offered::Breach(_)));
        stream.stored(moment_ms(2), 100, &settings());
        assert_eq!(stream.event(moment_ms(3), event(513), &settings(), &mut heard), Offered::Taken);
        assert_eq!(heard.len(), 1, "what was refused comes again, and in order");
    }

    #[test]
    fn a_number_never_handed_up_cannot_be_acknowledged() {
        let (mut stream, _) = hand_up(&[1, 2]);
        stream.stored(moment_ms(0), 50, &settings());
        assert_eq!(stream.take_ack(moment_ms(20)), Some(2));
    }

    #[test]
    fn numbers_that_cannot_be_are_a_breach_and_harm_nothing() {
        let (mut stream, _) = hand_up(&[1]);
        let mut heard = VecDeque::new();
        for (first, last) in [(0, 0), (5, 4), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            let offered = stream.gap(moment_ms(0), EventGap { first, last }, &settings(), &mut heard);
            assert!(matches!(offered, Offered::Breach(_)), "{first} to {last}");
        }
        assert!(heard.is_empty());
    }
}
