//! What must be true after a cycle, from what was done, told and answered; and where it is not.

use super::fates::Fates;
use super::flow::Seat;
use crate::simulator::Dump;
use crate::stage::reader::compare::{Expected, compare};
use crate::stage::reader::facts::{Cached, Database};
use remeet_protocol::message::{EndCause, LegState};
use remeet_protocol::{Epoch, LegId};
use std::collections::{BTreeMap, BTreeSet};

/// Remembers over all cycles what has ended: ended stays ended.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    ended: BTreeMap<LegId, BTreeSet<EndCause>>,
}

/// The sinks and the servers at one moment at which nothing moves.
pub(crate) struct Reading {
    pub(crate) epoch: Epoch,
    pub(crate) truth: Vec<Dump>,
    pub(crate) database: Database,
    pub(crate) cached: Cached,
}

impl Oracle {
    /// Takes in what ended in this cycle: by a client, or found gone by its client, or by a server.
    pub(crate) fn learn(&mut self, seats: &mut [Seat], truth: &[Dump], fates: &Fates) {
        let live = live(truth);
        for seat in seats {
            self.ended.extend(seat.ended.drain(..));
            // One that nobody ended must live: if it does not, the judgement says so.
            let gone = |meeting: &super::meeting::Meeting| {
                !live.contains(&meeting.leg()) && !fates.ends(meeting.id).is_empty()
            };
            if let Some(meeting) = seat.meeting.take_if(|meeting| gone(meeting)) {
                self.ended.insert(meeting.leg(), fates.ends(meeting.id));
                fates.forget(meeting.id);
            }
        }
    }

    /// Every difference.
    pub(crate) fn judge(&self, reading: &Reading, seats: &[Seat], orphans: BTreeSet<LegId>) -> Vec<String> {
        let mut expected = Expected { epoch: reading.epoch, orphans, ..Expected::default() };
        let mut effects = Vec::new();
        for meeting in seats.iter().filter_map(|seat| seat.meeting.as_ref()) {
            expected.live.insert(meeting.leg());
            let legs = reading.truth.iter().flat_map(|dump| &dump.legs);
            for leg in legs.filter(|leg| leg.leg == meeting.leg() && leg.state == LegState::Live) {
                let each = meeting.differences(leg).into_iter();
                effects.extend(each.map(|text| format!("commands: meeting {}: {text}", meeting.id)));
            }
        }
        for (leg, ways) in &self.ended {
            // Where more than one cause is right, the stored one is if it is among them.
            let stored = reading.database.legs.get(leg).map(|row| row.cause).filter(|cause| ways.contains(cause));
            let cause = stored.or(ways.first().copied()).unwrap_or(EndCause::Commanded);
            expected.ended.insert(*leg, cause);
        }
        let findings = compare(&reading.truth, &reading.database, &reading.cached, &expected);
        let mut differences: Vec<String> = findings.shown.iter().map(ToString::to_string).collect();
        let hidden = findings.total.saturating_sub(differences.len() as u64);
        if hidden > 0 {
            differences.push(format!("… and {hidden} more between the servers' truth, database and cache"));
        }
        differences.append(&mut effects);
        differences
    }
}

fn live(truth: &[Dump]) -> BTreeSet<LegId> {
    let legs = truth.iter().flat_map(|dump| &dump.legs);
    legs.filter(|leg| leg.state == LegState::Live).map(|leg| leg.leg).collect()
}
