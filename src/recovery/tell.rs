//! What is told of legs: to subscribers, and to the cache.

use super::core::Core;
use super::leg::Leg;
use super::{CacheTask, Output, Published};
use crate::guard::{Guard, holds};
use crate::model::StoredLeg;
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
        let (state, _) = self.derive_meeting(leg.meeting, row);
        Some(Published { leg, kind, state, cause: row.cause, revision: row.mark.revision, changes })
    }

    /// The meeting's state from its legs in memory.
    pub(super) fn derive_meeting(&self, meeting: MeetingId, row: &StoredLeg) -> (MeetingState, bool) {
        let legs = self.legs.of(meeting);
        if legs.is_empty() { self.derive([row]) } else { self.derive(legs.iter().map(|leg| &leg.row)) }
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
        let legs = self.legs.of(meeting);
        let (mut state, _) = self.derive(legs.iter().map(|known| &known.row));
        // What is on its way to the store is not told (rule 15): with the last leg's the meeting's end is.
        let closing = legs.iter().any(|known| known.closing.is_some()) && holds(Guard::EndTellsLast);
        if state == MeetingState::Ended && closing {
            state = MeetingState::Ending;
        }
        let kind = if state == MeetingState::Ended { EventKind::Ended } else { EventKind::State };
        for end in ends {
            self.put(Output::Publish(Published { kind, state, ..end }));
        }
    }
}
