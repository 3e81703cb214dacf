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
use crate::session::{Request, Ticket};
use remeet_protocol::message::{Adopt, TakeoverClaim};
use remeet_protocol::proof::{self, Claim};
use remeet_protocol::{LegId, ServerId};
use std::collections::BTreeSet;
use std::time::Duration;

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
        let deadline = self.now + self.settings.round_deadline;
        if let Some(round) = self.round(server) {
            round.stage = Stage::TakingOver;
            round.deadline = deadline;
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

    /// Claims of one request are with the server no more: the session names each once, whatever becomes of it. Gives those
    /// that the present round handed out with it: what an earlier one asked says nothing of what was asked since. An answer
    /// moves the round's deadline on, if it says that the server works.
    pub(super) fn claims_over(
        &mut self,
        server: ServerId,
        ticket: Ticket,
        legs: &[LegId],
        works: bool,
    ) -> BTreeSet<LegId> {
        debug_assert!(legs.len() <= self.claimed, "a claim was answered twice");
        self.claimed = self.claimed.saturating_sub(legs.len());
        let deadline = self.now + self.settings.round_deadline;
        let Some(round) = self.round(server) else { return BTreeSet::new() };
        let of_round = |leg: &&LegId| round.handed.get(leg) == Some(&ticket);
        let over: BTreeSet<LegId> = legs.iter().filter(of_round).copied().collect();
        for leg in &over {
            round.handed.remove(leg);
        }
        if works && !over.is_empty() {
            round.deadline = deadline;
        }
        over
    }

    /// The server is busy with whatever it is asked: the round's other claims wait as long as it said, but not for long, since
    /// nothing is back-filled meanwhile.
    pub(super) fn pause_claims(&mut self, server: ServerId, retry_after_ms: u32) {
        let (least, most) = (self.settings.round_retry, self.settings.round_retry_max);
        let until = self.now + Duration::from_millis(retry_after_ms.into()).clamp(least, most);
        if let Some(round) = self.round(server).filter(|round| !round.unclaimed.is_empty()) {
            round.paused_until = round.paused_until.max(Some(until));
        }
    }

    /// Servers that said that they are busy are asked again.
    pub(super) fn resume_claims(&mut self) {
        let due = |server: &mut Server| {
            server.round.as_mut()?.paused_until.take_if(|until| *until <= self.now)?;
            Some(server.id)
        };
        let due: Vec<ServerId> = self.servers.values_mut().filter_map(due).collect();
        for server in due {
            self.want_claims(server);
        }
    }

    /// The server's round may have room for more claims to be under way, and the store for more acceptances.
    pub(super) fn want_claims(&mut self, server: ServerId) {
        if self.accepting < self.settings.acceptances_unstored {
            return self.hand_out_claims_of(server);
        }
        let Some(known) = self.servers.get_mut(&server) else { return };
        let waits = known.round.as_ref().is_some_and(|round| !round.unclaimed.is_empty());
        if waits && !std::mem::replace(&mut known.wants_claims, true) {
            self.claimants.push_back(server);
        }
    }

    /// An acceptance is stored, or was lost: claims that waited for it are handed out, a share a server in turn, as long as not
    /// too many acceptances wait for the store. A server that gets nothing has claims under way: their answer brings it here
    /// again.
    pub(super) fn hand_out_claims(&mut self) {
        let deadline = self.now + self.settings.round_deadline;
        while self.accepting < self.settings.acceptances_unstored
            && let Some(server) = self.claimants.pop_front()
        {
            let Some(known) = self.servers.get_mut(&server) else { continue };
            known.wants_claims = false;
            // The deadline is for answers: what waited for the store had not been asked.
            if let Some(round) = known.round.as_mut().filter(|round| round.handed.is_empty()) {
                round.deadline = deadline;
            }
            self.hand_out_claims_of(server);
            self.hand_out_look_ups();
        }
    }

    /// Claims that wait: for the store, or for the answers to others of their server.
    pub(super) fn claims_that_wait(&self) -> usize {
        let rounds = self.servers.values().filter_map(|server| server.round.as_ref());
        rounds.map(|round| round.unclaimed.len()).sum()
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
        let attached = self.servers.get(&server).and_then(|known| known.attached);
        let (Some(token), Some((boot, _))) = (self.token, attached) else { return };
        let settings = &self.settings;
        let room = self.accepting + self.claimed < settings.acceptances_unstored;
        let most = settings.claims_in_flight;
        let most = if room { most } else { most.min(settings.claims_at_least) };
        let round = self.servers.get_mut(&server).and_then(|known| known.round.as_mut());
        let Some(round) = round.filter(|round| round.paused_until.is_none()) else { return };
        let mut claims = Vec::new();
        while round.handed.len() + claims.len() < most
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
            let claim = Claim { server, boot, handle, leg, token };
            claims.push(TakeoverClaim { handle, leg, proof: proof::prove(secret, &claim) });
        }
        if claims.is_empty() {
            return;
        }
        self.claimed += claims.len();
        let legs: Vec<LegId> = claims.iter().map(|claim| claim.leg).collect();
        // Its answers name their legs, with which the ticket is kept.
        let ticket = self.ask(server, Asked::Round(server), Request::Takeover(claims), None);
        self.tickets.remove(&ticket);
        if let Some(round) = self.round(server) {
            round.handed.extend(legs.into_iter().map(|leg| (leg, ticket)));
        }
    }
}

impl Server {
    /// Its round's claims, or its look-up, wait for the store and for nothing else.
    pub(super) fn waits_for_store(&self) -> bool {
        let idle = |round: &Round| round.stage == Stage::TakingOver && round.handed.is_empty();
        self.wants_claims && self.round.as_ref().is_some_and(idle) || self.waits_to_look_up()
    }

    /// What its round awaits, for the operator.
    pub(super) fn stage_name(&self) -> Option<&'static str> {
        let round = self.round.as_ref()?;
        Some(if self.waits_for_store() { "waiting for the store" } else { round.stage.name() })
    }
}
