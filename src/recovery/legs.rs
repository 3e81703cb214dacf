//! The legs in memory. Whatever happens to a leg looks it up some twenty times: by a hash, since the searches through a tree
//! of a hundred thousand were most of the core's work.

use super::ReadId;
use super::core::Core;
use super::leg::Leg;
use super::unacknowledged::Taken;
use crate::model::StoredState;
use foldhash::fast::FixedState;
use remeet_protocol::{ErrorCode, LegId, MeetingId};
use std::collections::HashMap;

/// Legs, by meeting: most have one, cascaded ones a few.
#[derive(Debug)]
pub(super) struct Legs {
    /// Each meeting's in ascending order of leg; none is empty.
    meetings: HashMap<MeetingId, Vec<Leg>, FixedState>,
    len: usize,
}

impl Legs {
    /// `seed` keeps who names meetings from choosing names that collide.
    pub(super) fn new(seed: u64) -> Self {
        Self { meetings: HashMap::with_hasher(FixedState::with_seed(seed)), len: 0 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The meeting's, in ascending order of leg.
    pub(super) fn of(&self, meeting: MeetingId) -> &[Leg] {
        self.meetings.get(&meeting).map_or(&[], Vec::as_slice)
    }

    pub(super) fn get(&self, id: &LegId) -> Option<&Leg> {
        self.of(id.meeting).iter().find(|leg| leg.row.leg.leg == id.leg)
    }

    pub(super) fn get_mut(&mut self, id: &LegId) -> Option<&mut Leg> {
        self.meetings.get_mut(&id.meeting)?.iter_mut().find(|leg| leg.row.leg.leg == id.leg)
    }

    pub(super) fn contains_key(&self, id: &LegId) -> bool {
        self.get(id).is_some()
    }

    /// Puts a leg in, in place of one of its name.
    pub(super) fn insert(&mut self, leg: Leg) {
        // One leg is the rule: room for four would be three too many.
        let legs = self.meetings.entry(leg.row.leg.meeting).or_insert_with(|| Vec::with_capacity(1));
        match legs.binary_search_by_key(&leg.row.leg.leg, |known| known.row.leg.leg) {
            Ok(place) => legs[place] = leg,
            Err(place) => {
                legs.insert(place, leg);
                self.len += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, id: &LegId) -> Option<Leg> {
        let legs = self.meetings.get_mut(&id.meeting)?;
        let place = legs.iter().position(|leg| leg.row.leg.leg == id.leg)?;
        let leg = legs.remove(place);
        if legs.is_empty() {
            self.meetings.remove(&id.meeting);
        }
        self.len -= 1;
        Some(leg)
    }

    /// All, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Leg> {
        self.meetings.values().flatten()
    }
}

impl Core {
    /// Puts a leg into memory.
    pub(super) fn insert_leg(&mut self, leg: Leg) {
        if let Some(server) = self.servers.get_mut(&leg.row.server) {
            server.legs.insert(leg.row.leg);
        }
        self.legs.insert(leg);
    }

    /// Drops a leg from memory.
    pub(super) fn forget_leg(&mut self, leg: LegId) {
        let Some(known) = self.legs.remove(&leg) else { return };
        if let Some(first) = known.waiting.first() {
            self.waits.remove(&(first.deadline, leg));
        }
        if known.row.state == StoredState::Ended && !self.reads.is_empty() {
            self.lately.ended(ReadId(self.last_id), known.row.clone());
        }
        let id = known.row.server;
        if let Some(server) = self.servers.get_mut(&id) {
            server.legs.remove(&leg);
            server.pending.remove(&leg);
            if let Some(round) = &mut server.round {
                round.leave(leg);
            }
        }
        if self.legs.of(leg.meeting).is_empty() {
            self.whole.remove(&leg.meeting);
        }
        for waiter in known.lifting {
            self.answer_lift(
                waiter,
                leg,
                ErrorCode::ENDED,
                "the meeting has ended: its quarantine is of no more account",
            );
        }
        for event in known.held {
            // What is left has ended, and needs nothing more.
            self.set_taken(id, event.number, Taken::Stored);
        }
        self.acknowledge(id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::model::{RecoveryKey, StoredLeg};
    use remeet_protocol::record::Number;
    use remeet_protocol::wire::Text;
    use remeet_protocol::{DomainId, Secret, ServerId};

    fn leg(meeting: u128, leg: u16) -> Leg {
        let id = LegId { meeting: MeetingId(uuid::Uuid::from_u128(meeting)), leg };
        let key = RecoveryKey {
            leg: id,
            domain: DomainId(1),
            server: ServerId(1),
            secret: Secret::new([1; 16]),
            generation: 1,
            number: Number::default(),
            title: Text::default(),
            creator: Number::default(),
            creator_name: Text::default(),
            made_at_ms: 0,
        };
        Leg::new(StoredLeg::new(&key, StoredState::Created))
    }

    #[test]
    fn legs_are_found_by_name_and_a_meetings_are_in_their_order() {
        let mut legs = Legs::new(7);
        for (meeting, number) in [(1, 2), (2, 0), (1, 0), (1, 2), (1, 1)] {
            legs.insert(leg(meeting, number));
        }
        let of = |legs: &Legs, meeting| {
            let meeting = leg(meeting, 0).row.leg.meeting;
            legs.of(meeting).iter().map(|leg| leg.row.leg.leg).collect::<Vec<_>>()
        };
        assert_eq!((legs.len(), of(&legs, 1), of(&legs, 2), of(&legs, 3)), (4, vec![0, 1, 2], vec![0], vec![]));
        let id = leg(1, 1).row.leg;
        legs.get_mut(&id).unwrap().lost = 3;
        assert_eq!(legs.get(&id).unwrap().lost, 3);
        assert_eq!(legs.remove(&id).unwrap().lost, 3);
        assert!(legs.remove(&id).is_none() && !legs.contains_key(&id));
        assert!(legs.remove(&leg(2, 0).row.leg).is_some());
        assert_eq!((legs.len(), legs.values().count(), legs.meetings.len()), (2, 2, 1));
    }
}
