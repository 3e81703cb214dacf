//! What is stored of a server's legs, read for its round (design §2 step 3). The first pass of a term reads every row: then
//! look-ups wait while many legs that were looked up are not claimed, since memory holds lists of these and nothing is won
//! before they are.

use super::core::{Core, Reading};
use super::report::KeySource;
use super::round::{Round, Stage};
use super::server::Server;
use super::{AlarmKind, Output, Read};
use crate::store::LookUp;
use remeet_protocol::{LegId, ServerId};
use std::time::Duration;

/// How far a round's look-up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookingUp {
    Waits,
    Asked,
    Done,
}

/// How long look-ups wait for claims that the store does not keep waiting.
const LOOK_UPS_WAIT: Duration = Duration::from_secs(1);

impl Core {
    /// The inventory has come. Later passes than the first know their rows and read only those that memory does not hold.
    pub(super) fn want_look_up(&mut self, server: ServerId) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        if known.first_pass_done {
            return self.look_up(server);
        }
        if !std::mem::replace(&mut known.wants_look_up, true) {
            self.look_ups.push_back(server);
        }
        self.hand_out_look_ups();
    }

    /// Hands out look-ups, as long as not too many legs are looked up and not claimed. If none went out for a while, and the
    /// store is not what is waited for, the claims wait for servers that hang or are slow: no other waits for these.
    pub(super) fn hand_out_look_ups(&mut self) {
        if self.look_ups.is_empty() {
            self.look_ups_at = None;
            return;
        }
        let at = *self.look_ups_at.get_or_insert(self.now + LOOK_UPS_WAIT);
        let idle = self.looking_up == 0 && self.accepting < self.settings.acceptances_unstored / 2;
        let forced = at <= self.now && idle;
        let before = self.look_ups.len();
        loop {
            let wait = if forced { 0 } else { self.claims_that_wait() };
            let room = self.looking_up + wait < self.settings.legs_unclaimed;
            let Some(server) = self.look_ups.pop_front_if(|_| room) else { break };
            if let Some(known) = self.servers.get_mut(&server) {
                known.wants_look_up = false;
            }
            self.look_up(server);
        }
        if self.look_ups.len() < before || at <= self.now {
            self.look_ups_at = Some(self.now + LOOK_UPS_WAIT);
        }
    }

    fn look_up(&mut self, server: ServerId) {
        let deadline = self.now + self.settings.round_deadline;
        let first_pass = self.servers.get(&server).is_some_and(|known| !known.first_pass_done);
        let Some(round) = self.round(server).filter(|round| round.waits_for_look_up()) else { return };
        round.look_up = LookingUp::Asked;
        // It may have waited for long.
        round.deadline = deadline;
        let id = round.id;
        let entries = round.inventory.iter().flat_map(|inventory| &inventory.entries);
        let mut legs: Vec<LegId> = entries.map(|entry| entry.leg).collect();
        let (read, first) = if first_pass {
            let count = legs.len();
            (Read::LookUp { server, legs }, count)
        } else {
            legs.retain(|leg| !self.legs.contains_key(leg));
            if legs.is_empty() {
                return self.round_looked_up(server, LookUp::default());
            }
            (Read::Legs(legs), 0)
        };
        self.looking_up += first;
        let read_id = self.read_id();
        self.reads.insert(read_id, Reading::RoundLookUp(id, first));
        self.put(Output::Read { id: read_id, read });
    }

    pub(super) fn round_looked_up(&mut self, server: ServerId, found: LookUp) {
        let mut unreadable = Vec::new();
        for bad in found.bad {
            let leg = leg_named(&bad.leg);
            unreadable.extend(leg);
            let text = format!("the stored leg {} cannot be read and is left alone: {}", bad.leg, bad.reason);
            self.alarm(AlarmKind::BadRow, Some(server), leg, text);
        }
        let mut keys = Vec::new();
        for found in found.found {
            if let Some(key) = &found.key {
                keys.push((found.row.leg, key.secret.clone()));
            }
            self.take_found(found);
        }
        let Some(round) = self.round(server) else { return };
        for (leg, secret) in keys {
            round.keys.insert(leg, (secret, KeySource::Database));
        }
        round.unreadable.extend(unreadable);
        round.look_up = LookingUp::Done;
        if let Some(known) = self.servers.get_mut(&server) {
            known.looked_up = true;
        }
        self.release_strangers(server);
        self.try_plan(server);
    }
}

impl Server {
    /// Its round waits for room to look its legs up, and for nothing else.
    pub(super) fn waits_to_look_up(&self) -> bool {
        self.wants_look_up && self.round.as_ref().is_some_and(Round::waits_for_look_up)
    }
}

impl Round {
    fn waits_for_look_up(&self) -> bool {
        self.stage == Stage::AwaitLookUp && self.look_up == LookingUp::Waits
    }
}

/// The leg that a bad row names, if that much of it can be read.
fn leg_named(text: &str) -> Option<LegId> {
    let (meeting, leg) = text.split_once('/')?;
    Some(LegId { meeting: meeting.parse().ok()?, leg: leg.parse().ok()? })
}
