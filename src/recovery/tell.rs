//! What is told of legs: to subscribers, and to the cache.

use super::core::Core;
use super::leg::Leg;
use super::{CacheTask, Output, Published};
use crate::guard::{Guard, holds};
use crate::model::StoredState;
use crate::store::CachedHead;
use remeet_protocol::message::{EventKind, MeetingState};
use remeet_protocol::{Change, LegId, MeetingId};

impl Core {
    pub(super) fn publish(&mut self, leg: LegId, kind: EventKind, changes: Vec<Change>) {
        let Some(published) = self.published(leg, kind, changes) else { return };
        self.put(Output::Publish(published));
    }

    pub(super) fn published(&self, leg: LegId, kind: EventKind, changes: Vec<Change>) -> Option<Published> {
        let row = &self.legs.get(&leg)?.row;
        let state = self.told_state(leg.meeting).unwrap_or_else(|| self.state_of([row.into()]));
        Some(Published { leg, kind, state, cause: row.cause, revision: row.mark.revision, changes })
    }

    /// The state of a meeting by its legs in memory. What is on its way to the store is not told (rule 15): the meeting's end
    /// is with the last leg's.
    fn told_state(&self, meeting: MeetingId) -> Option<MeetingState> {
        let legs = self.legs.of(meeting);
        let stands = |leg: &Leg| if holds(Guard::EndTellsLast) { leg.stands } else { (&leg.row).into() };
        (!legs.is_empty()).then(|| self.state_of(legs.iter().map(stands)))
    }

    /// The cached head of a leg, if it has a place on a server.
    pub(super) fn head(&self, leg: &Leg) -> Option<CachedHead> {
        let (boot, handle) = (leg.row.boot?, leg.row.handle?);
        // The row's state and nothing of the moment: that a link is down, or a takeover under way, is never stored, for
        // nobody would write the status again when that is over.
        let stored = leg.before_end.unwrap_or(leg.row.state);
        let state = if leg.is_ours(self.token) { MeetingState::InMeeting } else { stored.of_meeting() };
        Some(CachedHead {
            leg: leg.row.leg,
            domain: leg.row.domain,
            server: leg.row.server,
            boot,
            handle,
            state,
            epoch: leg.row.epoch,
        })
    }

    pub(super) fn mirror_key(&mut self, leg: LegId) {
        self.put(Output::Cache(CacheTask::MirrorKey(leg)));
    }

    /// A leg's end is stored. Only the last leg's is the meeting's (SPEC K-14), and which is the last is known only
    /// with the others.
    pub(super) fn publish_end(&mut self, leg: LegId) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.stands.state = StoredState::Ended;
        }
        let Some(published) = self.published(leg, EventKind::Ended, Vec::new()) else { return };
        let meeting = leg.meeting;
        self.ends.entry(meeting).or_default().push(published);
        if self.is_whole(meeting) {
            self.tell_end(meeting);
        } else if !self.reads.values().any(|reading| reading.reads_meeting(meeting)) {
            self.read_meetings(vec![meeting]);
        }
    }

    pub(super) fn tell_end(&mut self, meeting: MeetingId) {
        let Some(ends) = self.ends.remove(&meeting) else { return };
        let state = self.told_state(meeting).unwrap_or(MeetingState::Ended);
        let last = ends.len() - 1;
        for (place, end) in ends.into_iter().enumerate() {
            // Of legs that are told of together the last one's end is the meeting's: it has one.
            let (kind, state) = match state {
                MeetingState::Ended if place == last => (EventKind::Ended, state),
                MeetingState::Ended => (EventKind::State, MeetingState::Ending),
                _ => (EventKind::State, state),
            };
            self.put(Output::Publish(Published { kind, state, ..end }));
        }
    }
}
