//! What may become of a meeting other than by its client: written down before it is done to it.

use remeet_protocol::message::EndCause;
use remeet_protocol::{LegId, MeetingId, ServerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared by the clients' tasks and by those that do harm.
#[derive(Debug, Default)]
pub(crate) struct Fates(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    meetings: BTreeMap<MeetingId, Fate>,
    orphans: BTreeMap<LegId, ServerId>,
}

#[derive(Debug)]
struct Fate {
    server: ServerId,
    /// A server may end it, and its terminals come and go.
    lively: bool,
    /// How it may have ended.
    ends: BTreeSet<EndCause>,
}

impl Fates {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A meeting is about to be created.
    pub(crate) fn begin(&self, meeting: MeetingId, server: ServerId, lively: bool) {
        self.state().meetings.insert(meeting, Fate { server, lively, ends: BTreeSet::new() });
    }

    /// A meeting is over and done with.
    pub(crate) fn forget(&self, meeting: MeetingId) {
        self.state().meetings.remove(&meeting);
    }

    /// How a meeting may have ended without its client.
    pub(crate) fn ends(&self, meeting: MeetingId) -> BTreeSet<EndCause> {
        self.state().meetings.get(&meeting).map(|fate| fate.ends.clone()).unwrap_or_default()
    }

    /// A cycle is over: what lives has survived what could have ended it.
    pub(crate) fn survived(&self) {
        self.state().meetings.values_mut().for_each(|fate| fate.ends.clear());
    }

    /// Lively meetings of a server, or of any.
    pub(crate) fn lively(&self, server: Option<ServerId>) -> Vec<MeetingId> {
        let state = self.state();
        let of = |fate: &Fate| fate.lively && server.is_none_or(|server| server == fate.server);
        state.meetings.iter().filter(|(_, fate)| of(fate)).map(|(meeting, _)| *meeting).collect()
    }

    /// A server is about to end a meeting.
    pub(crate) fn may_end(&self, meeting: MeetingId) {
        if let Some(fate) = self.state().meetings.get_mut(&meeting) {
            fate.ends.insert(EndCause::ByServer);
        }
    }

    /// A server is about to lose its meetings, or has just done so.
    pub(crate) fn may_be_lost(&self, server: ServerId) {
        let mut state = self.state();
        for fate in state.meetings.values_mut().filter(|fate| fate.server == server) {
            fate.ends.insert(EndCause::Lost);
        }
        state.orphans.retain(|_, carries| *carries != server);
    }

    /// A foreign meeting was made.
    pub(crate) fn orphan(&self, leg: LegId, server: ServerId) {
        self.state().orphans.insert(leg, server);
    }

    /// Foreign meetings that live.
    pub(crate) fn orphans(&self) -> BTreeSet<LegId> {
        self.state().orphans.keys().copied().collect()
    }
}
