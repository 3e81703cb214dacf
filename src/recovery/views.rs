//! What the core shows: meetings' states, servers, reports. Reads only.

use super::core::Core;
use super::report::{RoundReport, Trigger};
use super::server::{Server, ServerView};
use crate::cascade::{LegStands, meeting_state};
use crate::model::{StoredLeg, StoredState};
use foldhash::fast::FixedState;
use remeet_protocol::message::MeetingState;
use remeet_protocol::{Handle, LegId, ServerId, Token};
use std::collections::{BTreeMap, HashMap};

impl Core {
    /// The term, once one began.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.token
    }

    /// A meeting's state as clients see it, and whether what is stored of it may be behind.
    #[must_use]
    pub fn derive<'a>(&'a self, rows: impl IntoIterator<Item = &'a StoredLeg>) -> (MeetingState, bool) {
        // What is on its way to the store counts: memory is newer than the rows that were read.
        let rows: Vec<&StoredLeg> =
            rows.into_iter().map(|row| self.legs.get(&row.leg).map_or(row, |leg| &leg.row)).collect();
        let state = self.state_of(rows.iter().map(|row| LegStands::from(*row)));
        let recovering = rows.iter().any(|row| {
            let live = !matches!(row.state, StoredState::Ended | StoredState::Created);
            live && self.legs.get(&row.leg).is_none_or(|leg| leg.in_round || !(leg.takes_commands() || leg.starts()))
        });
        (state, recovering)
    }

    /// The state of a meeting whose legs stand so.
    pub(super) fn state_of(&self, legs: impl IntoIterator<Item = LegStands>) -> MeetingState {
        let epoch = self.token.map(|token| token.epoch).unwrap_or_default();
        let reachable = |server| self.servers.get(&server).is_some_and(|server: &Server| server.up);
        meeting_state(legs, epoch, reachable)
    }

    /// How many legs are in memory.
    #[must_use]
    pub fn legs_known(&self) -> usize {
        self.legs.len()
    }

    /// Every server, for the operator.
    #[must_use]
    pub fn server_views(&self) -> Vec<ServerView> {
        let mut views: Vec<ServerView> = self.servers.values().map(view).collect();
        let places: HashMap<ServerId, usize, FixedState> =
            views.iter().enumerate().map(|(place, view)| (view.id, place)).collect();
        // All legs, once: looked up server by server they would cost ten times as much.
        for leg in self.legs.values() {
            let Some(view) = places.get(&leg.row.server).and_then(|place| views.get_mut(*place)) else { continue };
            if matches!(leg.row.state, StoredState::Ended | StoredState::Created) {
                continue;
            }
            view.legs += 1;
            if leg.is_ours(self.token) {
                view.in_meeting += 1;
            } else if !leg.takes_commands() {
                view.recovering += 1;
            }
            view.quarantined += u64::from(leg.row.quarantine.is_some());
        }
        views
    }

    /// Orphans of every server.
    pub fn orphans(&self) -> impl Iterator<Item = (ServerId, Handle, LegId)> + '_ {
        self.servers
            .values()
            .flat_map(|server| server.orphans.iter().map(move |(handle, entry)| (server.id, *handle, entry.leg)))
    }

    /// Sums the last reports of one trigger over all servers.
    #[must_use]
    pub fn report(&self, trigger: Trigger) -> RoundReport {
        let mut sum = RoundReport::default();
        for report in self.servers.values().filter_map(|server| server.reports.get(&trigger)) {
            sum.add(report);
        }
        sum
    }

    /// Whether no round runs and none is due, and every end is told: every server that is up has been compared.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        self.token.is_some()
            && self.ends.is_empty()
            && self.servers.values().all(|server| {
                server.round.is_none() && server.retry_at.is_none() && (!server.up || server.first_pass_done)
            })
    }

    /// Persists that were handed out and are not written yet.
    #[must_use]
    pub fn persists_open(&self) -> usize {
        self.after.len()
    }
}

/// All but the counts of legs.
fn view(server: &Server) -> ServerView {
    let mut view = ServerView {
        id: server.id,
        up: server.up,
        attached: server.attached.is_some(),
        boot: server.attached.map(|(boot, _)| boot),
        table_revision: server.attached.map_or(0, |(_, revision)| revision),
        round: server.stage_name(),
        legs: 0,
        in_meeting: 0,
        recovering: 0,
        backfilling: server.round.as_ref().map_or(0, |round| round.backfill.len() as u64),
        orphans: server.orphans.len() as u64,
        pending: BTreeMap::new(),
        quarantined: 0,
        misbehaved: server.misbehaved,
        trouble: server.trouble.clone(),
        reports: server.reports.clone(),
    };
    for reason in server.pending.values() {
        *view.pending.entry(reason).or_default() += 1;
    }
    view
}
