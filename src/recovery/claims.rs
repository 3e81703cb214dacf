//! Claims on their way out (design §2 step 5). A server takes legs over faster than the store writes that it did: claims
//! wait while many acceptances do, since nothing follows from one that is not stored. A client's command is stored behind
//! them, and memory holds them.

use super::AlarmKind;
use super::core::{Asked, Core};
use super::leg::Control;
use super::plan::{Bucket, takeover_order};
use super::report::Fate;
use super::round::{Round, Stage};
use crate::model::StoredState;
use crate::session::Request;
use remeet_protocol::message::{Adopt, TakeoverClaim};
use remeet_protocol::proof::{self, Claim};
use remeet_protocol::{LegId, ServerId};

impl Core {
    /// Claims legs whose keys are known: operator-marked ones first, then the larger ones. Adoptions are finished at once:
    /// they are few.
    pub(super) fn claim(&mut self, server: ServerId, legs: &[LegId]) {
        let mut ordered = Vec::with_capacity(legs.len());
        let mut keyless = Vec::new();
        let mut adoptions = Vec::new();
        let mut over = Vec::new();
        for leg in legs {
            let round = self.servers.get(&server).and_then(|known| known.round.as_ref());
            let place = round.and_then(|round| round.planned.get(leg));
            let (Some(known), Some(round), Some(place), Some(handle)) =
                (self.legs.get(leg), round, place, place.and_then(|place| place.handle))
            else {
                // It has ended while its key was read.
                over.push(*leg);
                continue;
            };
            match (round.keys.get(leg), &place.bucket) {
                (Some((secret, _)), Bucket::FinishAdoption { old }) => {
                    adoptions.push((*leg, *old, handle, secret.clone(), known.row.generation));
                }
                (Some(_), _) => ordered.push((takeover_order(known.row.first, place.terminals, handle), *leg)),
                (None, _) => keyless.push(*leg),
            }
        }
        ordered.sort_unstable();
        for leg in keyless {
            if self.legs.get(&leg).is_some_and(|known| known.row.state == StoredState::Adopting) {
                // Its key is on its way to the store with its row: the next round finds it.
                self.claim_failed(server, leg, "adopting");
                continue;
            }
            let text = "its row is stored, but its recovery key is missing: restore the recovery_keys row".to_owned();
            self.alarm(AlarmKind::BadKey, Some(server), Some(leg), text);
            self.claim_failed(server, leg, "no key");
        }
        if let Some(round) = self.round(server) {
            round.stage = Stage::TakingOver;
            round.claims.retain(|leg| !over.contains(leg));
            round.claims.extend(ordered.iter().map(|(_, leg)| *leg));
            round.unclaimed.extend(ordered.into_iter().map(|(_, leg)| leg));
        }
        for leg in over {
            self.note_fate(server, leg, Fate::Ended);
        }
        for (leg, old, handle, secret, generation) in adoptions {
            self.note_fate(server, leg, Fate::Pending("adopting"));
            if let Some(round) = self.round(server) {
                round.claims.remove(&leg);
                round.finishing.insert(leg);
            }
            self.ask_adoption(server, Adopt { handle, old, new: leg, secret, generation }, None);
        }
        self.want_claims(server);
        self.try_back_fill(server);
    }

    /// Claims are with the server no more: the session names each once, whatever becomes of it.
    pub(super) fn claims_answered(&mut self, server: ServerId, legs: impl ExactSizeIterator<Item = LegId>) {
        self.claimed = self.claimed.saturating_sub(legs.len());
        if let Some(round) = self.round(server) {
            for leg in legs {
                round.handed.remove(&leg);
            }
        }
    }

    /// The server's round has claims that wait, and may have room for more to be under way.
    pub(super) fn want_claims(&mut self, server: ServerId) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        let waits = known.round.as_ref().is_some_and(|round| !round.unclaimed.is_empty());
        if waits && !std::mem::replace(&mut known.wants_claims, true) {
            self.claimants.push_back(server);
        }
        self.hand_out_claims();
    }

    /// Hands out claims, a share a server in turn, as long as not too many acceptances wait for the store, or are about to:
    /// servers that do not answer hold up to half of the room, so that none waits for them.
    pub(super) fn hand_out_claims(&mut self) {
        let most = self.settings.acceptances_unstored;
        while self.accepting + self.claimed.min(most / 2) < most
            && let Some(server) = self.claimants.pop_front()
        {
            if let Some(known) = self.servers.get_mut(&server) {
                known.wants_claims = false;
            }
            self.hand_out_claims_of(server);
        }
    }

    /// A round is not late that only waits for the store: begun anew it would wait for the same.
    pub(super) fn round_is_late(&mut self, server: ServerId) {
        let deadline = self.now + self.settings.round_deadline;
        match self.round(server).filter(|round| round.waits_for_store()) {
            Some(round) => round.deadline = deadline,
            None => self.fail_round(server, "the round did not end in time"),
        }
    }

    /// As many of the server's claims as may be under way. The others follow when these are answered.
    fn hand_out_claims_of(&mut self, server: ServerId) {
        let (Some(token), Some((boot, _)), deadline) = (
            self.token,
            self.servers.get(&server).and_then(|known| known.attached),
            self.now + self.settings.round_deadline,
        ) else {
            return;
        };
        let most = self.settings.claims_in_flight;
        let Some(round) = self.servers.get_mut(&server).and_then(|known| known.round.as_mut()) else { return };
        let mut claims = Vec::new();
        while round.handed.len() < most
            && let Some(leg) = round.unclaimed.pop_front()
        {
            // What has ended meanwhile is claimed no more.
            let place = round.planned.get(&leg).filter(|_| round.claims.contains(&leg));
            let (Some(handle), Some((secret, _)), Some(known)) =
                (place.and_then(|place| place.handle), round.keys.get(&leg), self.legs.get_mut(&leg))
            else {
                continue;
            };
            known.control = Control::AwaitAnswer;
            round.handed.insert(leg);
            let claim = Claim { server, boot, handle, leg, token };
            claims.push(TakeoverClaim { handle, leg, proof: proof::prove(secret, &claim) });
        }
        // The deadline is for answers: what waits for the store has not been asked yet.
        round.deadline = deadline;
        if !claims.is_empty() {
            self.claimed += claims.len();
            // Its answers name their legs: no ticket is kept.
            let ticket = self.ask(server, Asked::Round(server), Request::Takeover(claims), None);
            self.tickets.remove(&ticket);
        }
    }
}

impl Round {
    /// Its claims wait for the store and for nothing else.
    pub(super) fn waits_for_store(&self) -> bool {
        !self.unclaimed.is_empty() && !self.claims.is_empty() && self.handed.is_empty()
    }
}
