//! Group commit, decided: units queue in lanes; each lane has one batch in flight and takes what has gathered meanwhile.
//! Units of one leg share a lane and are written in order; else small ones overtake large ones, so that a client's command
//! does not wait for other meetings' back-fill. A driver writes the batches.

use crate::session::PersistId;
use crate::store::{Outcome, Unit, Write};
use foldhash::fast::FixedState;
use remeet_protocol::ServerId;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// Lanes. Two connections write twice as fast on two cores (parts.md trap 13); SQLite has one writer and
/// takes them in turn.
const LANES: usize = 2;
/// The most units of a batch: past a thousand rows a statement gains nothing (parts.md trap 4).
const BATCH: usize = 1_000;
/// The most rows of a batch's large units: the same, for the three or four tables that back-fill writes to.
const BULK: u64 = 4_000;
/// The same beside small ones, which wait for as long as it takes: a few milliseconds.
const BULK_BESIDE: u64 = 200;
/// A small unit has so many rows at most: an event, an intent, a result, an acceptance.
const SMALL: u64 = 8;
/// Pauses between attempts while the store is down: it is asked for ever, since what is queued may not be
/// lost; its length is bounded by who asks (events by their window, pulls by their places, intents a leg, and clients
/// are answered `retry` by the driver).
pub const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pause after one of this length: twice as long, up to a bound.
#[must_use]
pub fn longer(pause: Duration) -> Duration {
    (pause * 2).min(PAUSE_MAX)
}

/// Units, each with the name that the core gave it.
pub type Units = Vec<(PersistId, Unit)>;

/// What is to be written now.
#[derive(Debug)]
pub struct Batch {
    /// Whose: named again when it has ended.
    pub lane: usize,
    /// Wait this long first: the last attempt failed.
    pub pause: Option<Duration>,
    /// In order.
    pub units: Units,
}

/// The lanes.
#[derive(Debug)]
pub struct Lanes {
    lanes: [Lane; LANES],
}

#[derive(Debug, Default)]
struct Lane {
    /// Was under way and is to be written once more, before everything else.
    again: VecDeque<Queued>,
    small: VecDeque<Queued>,
    /// Large units, and small ones behind a large one of their leg.
    bulk: VecDeque<Queued>,
    /// How many of these there are of each leg.
    behind: HashMap<u64, usize, FixedState>,
    busy: bool,
    pause: Option<Duration>,
}

/// A unit and what must stay in order.
#[derive(Debug)]
struct Queued {
    key: u64,
    id: PersistId,
    unit: Unit,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { lanes: std::array::from_fn(|_| Lane::default()) }
    }
}

impl Lanes {
    /// Queues a unit; `key` is any number, the same for what must stay in order.
    pub fn push(&mut self, key: u64, id: PersistId, unit: Unit) {
        let lane = &mut self.lanes[usize::try_from(key % LANES as u64).unwrap_or(0)];
        let queued = Queued { key, id, unit };
        if queued.unit.rows() <= SMALL && !lane.behind.contains_key(&key) {
            lane.small.push_back(queued);
        } else {
            *lane.behind.entry(key).or_default() += 1;
            lane.bulk.push_back(queued);
        }
    }

    /// Units that are queued, and batches that are being written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.queued() + usize::from(lane.busy)).sum()
    }

    /// The next batch of an idle lane that has something.
    pub fn begin(&mut self) -> Option<Batch> {
        let idle = |lane: &Lane| !lane.busy && lane.queued() > 0;
        let (place, lane) = self.lanes.iter_mut().enumerate().find(|(_, lane)| idle(lane))?;
        lane.busy = true;
        Some(Batch { lane: place, pause: lane.pause, units: lane.take() })
    }

    /// A batch has ended; `again` must be written once more, before what has gathered meanwhile.
    pub fn end(&mut self, lane: usize, written: bool, again: Units) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        lane.busy = false;
        for (id, unit) in again.into_iter().rev() {
            // Nothing overtakes these: they need no key.
            lane.again.push_front(Queued { key: 0, id, unit });
        }
        lane.pause = if written { None } else { Some(lane.pause.map_or(PAUSE_FIRST, longer)) };
    }
}

impl Lane {
    fn queued(&self) -> usize {
        self.again.len() + self.small.len() + self.bulk.len()
    }

    /// What is written next: small units first, and large ones behind all that are queued, since they may be of their legs.
    fn take(&mut self) -> Units {
        let mut units = Units::new();
        for queue in [&mut self.again, &mut self.small] {
            let room = BATCH - units.len();
            units.extend(queue.drain(..queue.len().min(room)).map(|queued| (queued.id, queued.unit)));
            give_back(queue);
            if !queue.is_empty() {
                return units;
            }
        }
        let (mut rows, most) = (0, if units.is_empty() { BULK } else { BULK_BESIDE });
        while units.len() < 2 * BATCH && rows < most {
            let Some(Queued { key, id, unit }) = self.bulk.pop_front() else { break };
            rows += unit.rows();
            if let Some(behind) = self.behind.get_mut(&key) {
                *behind -= 1;
                if *behind == 0 {
                    self.behind.remove(&key);
                }
            }
            units.push((id, unit));
        }
        give_back(&mut self.bulk);
        units
    }
}

/// What a restart has piled up is written: the room for it is given back.
fn give_back(queue: &mut VecDeque<Queued>) {
    if queue.capacity() > 8 * BATCH && queue.len() < queue.capacity() / 8 {
        queue.shrink_to(2 * queue.len());
    }
}

/// Rule 12, after an unknown commit has been settled: which outcomes are known, and what is written again. What
/// compares a version is planned anew by the core; the rest can simply be repeated. What compares the version of a leg
/// that is only made again has nothing to be planned anew from: it follows that in its order.
#[must_use]
pub fn settled(units: Units, outcomes: Vec<Outcome>) -> (Vec<(PersistId, Outcome)>, Units) {
    let (mut known, mut again) = (Vec::new(), Vec::new());
    let mut unmade = BTreeSet::new();
    for ((id, unit), outcome) in units.into_iter().zip(outcomes) {
        let compares = unit.writes.iter().any(|write| matches!(write, Write::State(_)));
        let of_unmade = unit.writes.iter().filter_map(Write::leg).any(|leg| unmade.contains(&leg));
        match outcome {
            Outcome::Lost { .. } if !compares || of_unmade => {
                unmade.extend(
                    unit.writes.iter().filter(|write| matches!(write, Write::NewLeg(_))).filter_map(Write::leg),
                );
                again.push((id, unit));
            }
            outcome => known.push((id, outcome)),
        }
    }
    (known, again)
}

/// Persist, then send: which sessions await which unit; several, if it is of several legs.
#[derive(Debug, Default)]
pub struct Awaited(BTreeSet<(PersistId, ServerId)>);

impl Awaited {
    /// The server's session awaits this unit.
    pub fn add(&mut self, id: PersistId, server: ServerId) {
        self.0.insert((id, server));
    }

    /// The unit has an outcome: whose sessions awaited it.
    pub fn take(&mut self, id: PersistId) -> Vec<ServerId> {
        let of_it = (id, ServerId(0))..=(id, ServerId(u32::MAX));
        self.0.extract_if(of_it, |_| true).map(|(_, server)| server).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::store::ContentWrite;
    use remeet_protocol::record::{RecordKey, RecordState};
    use remeet_protocol::{Change, DomainId, LegId, MeetingId};

    fn unit(first: bool) -> Unit {
        Unit::one(Write::First(LegId { meeting: MeetingId::default(), leg: 0 }, first))
    }

    #[test]
    fn a_lane_has_one_batch_in_flight_and_takes_what_has_gathered_in_order() {
        let mut lanes = Lanes::default();
        for id in 0..4 {
            lanes.push(2, PersistId(id), unit(true));
        }
        lanes.push(3, PersistId(9), unit(true));
        let (first, other) = (lanes.begin().unwrap(), lanes.begin().unwrap());
        assert!(lanes.begin().is_none(), "both lanes are busy");
        assert_eq!((first.units.len(), other.units.len(), lanes.waiting()), (4, 1, 2));
        lanes.push(2, PersistId(4), unit(true));
        // The store did not answer: all of it again, before what came since, after a pause that grows.
        lanes.end(first.lane, false, first.units);
        let again = lanes.begin().unwrap();
        let ids: Vec<u64> = again.units.iter().map(|(id, _)| id.0).collect();
        assert_eq!((ids, again.pause), (vec![0, 1, 2, 3, 4], Some(PAUSE_FIRST)));
        lanes.end(again.lane, false, again.units);
        let again = lanes.begin().unwrap();
        assert_eq!(again.pause, Some(PAUSE_FIRST * 2));
        lanes.end(again.lane, true, Vec::new());
        lanes.push(2, PersistId(5), unit(true));
        assert_eq!(lanes.begin().unwrap().pause, None);
    }

    #[test]
    fn small_units_overtake_large_ones_of_other_legs_and_none_of_their_own() {
        let mut lanes = Lanes::default();
        let large = |rows: u64| {
            let change = |revision| Change { revision, state: RecordState::Removed(RecordKey::Leg) };
            let changes = (1..=rows).map(change).collect();
            let leg = LegId { meeting: MeetingId::default(), leg: 0 };
            Unit::one(Write::Content(ContentWrite {
                leg,
                domain: DomainId(1),
                changes,
                base: 0,
                mark: None,
                full: false,
            }))
        };
        for (key, id, rows) in [(2, 1, 0), (2, 2, 9), (4, 3, 0), (2, 4, 0), (6, 5, 399), (8, 6, 9), (4, 7, 0)] {
            lanes.push(key, PersistId(id), if rows == 0 { unit(true) } else { large(rows) });
        }
        let mut next = || {
            let batch = lanes.begin()?;
            lanes.end(batch.lane, true, Vec::new());
            Some(batch.units.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        };
        assert_eq!(next(), Some(vec![1, 3, 7, 2, 4, 5]), "of the large ones as many as small ones wait for");
        assert_eq!((next(), next()), (Some(vec![6]), None));
        let again = vec![(PersistId(1), unit(true))];
        lanes.push(2, PersistId(8), unit(true));
        lanes.end(0, true, again);
        let mut next = || lanes.begin().map(|batch| batch.units.iter().map(|(id, _)| id.0).collect::<Vec<_>>());
        assert_eq!(next(), Some(vec![1, 8]), "nothing overtakes what is written once more");
    }

    #[test]
    fn a_batch_has_a_bound() {
        let mut lanes = Lanes::default();
        for id in 0..1_500 {
            lanes.push(0, PersistId(id), unit(true));
        }
        assert_eq!((lanes.begin().unwrap().units.len(), lanes.waiting()), (BATCH, 501));
    }

    #[test]
    fn rule_12_what_was_lost_is_written_again_unless_it_compares() {
        let units = vec![(PersistId(1), unit(true)), (PersistId(2), unit(false))];
        let outcomes = vec![Outcome::Lost { version: 3 }, Outcome::Applied { version: 0 }];
        let (known, again) = settled(units, outcomes);
        assert_eq!(known, [(PersistId(2), Outcome::Applied { version: 0 })]);
        assert_eq!(again, [(PersistId(1), unit(true))]);
    }

    #[test]
    fn a_unit_of_several_legs_is_awaited_by_several_sessions() {
        let mut awaited = Awaited::default();
        for (id, server) in [(1, 5), (2, 1), (1, 3)] {
            awaited.add(PersistId(id), ServerId(server));
        }
        assert_eq!(awaited.take(PersistId(1)), [ServerId(3), ServerId(5)]);
        assert_eq!(awaited.take(PersistId(1)), []);
        assert_eq!(awaited.take(PersistId(2)), [ServerId(1)]);
    }
}
