//! Claims on their way out (design §2 step 5). A server takes legs over faster than the store writes that it did: claims
//! wait while many acceptances do, since nothing follows from one that is not stored. A client's command is stored behind
//! them, and memory holds them.

use super::AlarmKind;
use super::core::{Asked, Core};
use super::leg::Control;
use super::plan::{Bucket, takeover_order};
use super::report::Fate;
use super::round::{Round, Stage};
use super::server::Server;
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

    /// Claims are with the server no more: the session names each once, whatever becomes of it. Says whether the present
    /// round handed out any of them. An answer moves its deadline on.
    pub(super) fn claims_over(&mut self, server: ServerId, legs: &[LegId], answered: bool) -> bool {
        self.claimed = self.claimed.saturating_sub(legs.len());
        let deadline = self.now + self.settings.round_deadline;
        let Some(round) = self.round(server) else { return false };
        let before = round.handed.len();
        for leg in legs {
            round.handed.remove(leg);
        }
        let of_round = round.handed.len() < before;
        if of_round && answered {
            round.deadline = deadline;
        }
        of_round
    }

    /// The server cannot be asked now: what it has not been asked yet waits for the next round.
    pub(super) fn give_up_claims(&mut self, server: ServerId, reason: &'static str) {
        let Some(round) = self.round(server) else { return };
        let unclaimed = std::mem::take(&mut round.unclaimed);
        let open: Vec<LegId> = unclaimed.into_iter().filter(|leg| round.claims.contains(leg)).collect();
        for leg in open {
            self.claim_failed(server, leg, reason);
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

    /// Hands out claims, a share a server in turn, as long as not too many acceptances wait for the store. A server that
    /// gets nothing has claims under way: it is here again with their answer.
    pub(super) fn hand_out_claims(&mut self) {
        while self.accepting < self.settings.acceptances_unstored
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
        let waits = self.servers.get(&server).is_some_and(Server::waits_for_store);
        match self.round(server).filter(|_| waits) {
            Some(round) => round.deadline = deadline,
            None => self.fail_round(server, "the round did not end in time"),
        }
    }

    /// As many of the server's claims as may be under way. The others follow when these are answered. Claims that are not
    /// answered count, too, since each may be accepted; but those of servers that hang hold nobody up for long: a server
    /// without any always gets some.
    fn hand_out_claims_of(&mut self, server: ServerId) {
        let (Some(token), Some((boot, _)), deadline) = (
            self.token,
            self.servers.get(&server).and_then(|known| known.attached),
            self.now + self.settings.round_deadline,
        ) else {
            return;
        };
        let settings = &self.settings;
        let room = self.accepting + self.claimed < settings.acceptances_unstored;
        let most = if room { settings.claims_in_flight } else { settings.claims_at_least };
        let Some(round) = self.servers.get_mut(&server).and_then(|known| known.round.as_mut()) else { return };
        let first = round.handed.is_empty();
        let mut claims = Vec::new();
        while round.handed.len() < most
            && let Some(leg) = round.unclaimed.pop_front()
        {
            // What has left the round meanwhile is claimed no more, nor what ends: the server would not know it.
            let place = round.planned.get(&leg).filter(|_| round.claims.contains(&leg));
            let known = self.legs.get_mut(&leg).filter(|known| known.closing.is_none());
            let (Some(handle), Some((secret, _)), Some(known)) =
                (place.and_then(|place| place.handle), round.keys.get(&leg), known)
            else {
                continue;
            };
            known.control = Control::AwaitAnswer;
            round.handed.insert(leg);
            let claim = Claim { server, boot, handle, leg, token };
            claims.push(TakeoverClaim { handle, leg, proof: proof::prove(secret, &claim) });
        }
        if claims.is_empty() {
            return;
        }
        if first {
            // The deadline is for answers: what waited for the store had not been asked.
            round.deadline = deadline;
        }
        self.claimed += claims.len();
        // Its answers name their legs: no ticket is kept.
        let ticket = self.ask(server, Asked::Round(server), Request::Takeover(claims), None);
        self.tickets.remove(&ticket);
    }
}

impl Server {
    /// Its round's claims wait for the store and for nothing else.
    pub(super) fn waits_for_store(&self) -> bool {
        let idle = |round: &Round| round.stage == Stage::TakingOver && round.handed.is_empty();
        self.wants_claims && self.round.as_ref().is_some_and(idle)
    }

    /// What its round awaits, for the operator.
    pub(super) fn stage_name(&self) -> Option<&'static str> {
        let round = self.round.as_ref()?;
        Some(if self.waits_for_store() { "waiting for the store" } else { round.stage.name() })
    }
}
