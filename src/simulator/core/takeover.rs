//! Takeover by proof (SPEC T-2, T-4) and adoption of orphans (T-7).

use super::journal::{Adoption, Entry};
use super::{Asked, Core, Misbehaviour};
use crate::guard::{Guard, holds};
use remeet_protocol::message::{Adopt, AdoptAnswer, Failure, Takeover, TakeoverAnswer, TakeoverClaim, TakeoverResult};
use remeet_protocol::proof::{self, Claim};
use remeet_protocol::record::{Digest, Mark};
use remeet_protocol::{ErrorCode, Handle, Token};
use std::collections::BTreeMap;

/// Wrong proofs for a leg within [`GUESSES_MS`] after which it answers `busy` (SPEC T-4).
const GUESSES_MAX: u32 = 10;
/// One minute.
const GUESSES_MS: u64 = 60_000;

/// Wrong proofs, by leg: how many since when. Holds no more than there are legs.
#[derive(Debug, Default)]
pub(super) struct Guesses(BTreeMap<Handle, (u32, u64)>);

impl Guesses {
    fn wrong(&mut self, handle: Handle, now_ms: u64) {
        let (count, since) = self.0.entry(handle).or_insert((0, now_ms));
        if now_ms.saturating_sub(*since) >= GUESSES_MS {
            (*count, *since) = (0, now_ms);
        }
        *count += 1;
    }

    /// How long nobody may guess on, if so.
    fn locked(&self, handle: Handle, now_ms: u64) -> Option<u32> {
        let (count, since) = self.0.get(&handle)?;
        let left = GUESSES_MS.checked_sub(now_ms.saturating_sub(*since)).filter(|left| *left > 0)?;
        (*count >= GUESSES_MAX).then(|| u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// The leg's handle is forgotten.
    pub(super) fn forget(&mut self, handle: Handle) {
        self.0.remove(&handle);
    }
}

impl Core {
    pub(super) fn takeover(&mut self, now_ms: u64, asked: Asked, takeover: &Takeover) {
        let Some(token) = self.admit(asked) else { return };
        if takeover.claims.len() > Takeover::CLAIMS_MAX {
            return self.fail(asked, Failure::new(ErrorCode::TOO_MANY, "the results would not fit one packet"));
        }
        let mut taken = Vec::new();
        let results: Vec<_> = takeover
            .claims
            .iter()
            .map(|claim| {
                let result = self.claim(now_ms, token, claim);
                if result.code.is_ok() {
                    taken.push(claim.handle);
                    self.stats.takeovers_accepted += 1;
                } else {
                    self.stats.takeovers_refused += 1;
                    self.stats.bad_keys += u64::from(result.code == ErrorCode::BAD_KEY);
                }
                result
            })
            .collect();
        if !taken.is_empty() {
            self.journal.note(&Entry::Taken(token, taken));
        }
        let answer = TakeoverAnswer { boot: self.boot, table_revision: self.table.revision, results };
        self.answer(asked, vec![answer.into()]);
    }

    fn claim(&mut self, now_ms: u64, token: Token, claim: &TakeoverClaim) -> TakeoverResult {
        let refused = |code| TakeoverResult {
            handle: claim.handle,
            leg: claim.leg,
            code,
            retry_after_ms: 0,
            mark: Mark::default(),
            intent: 0,
        };
        if let Some(retry_after_ms) = self.busy_ms {
            return TakeoverResult { retry_after_ms, ..refused(ErrorCode::BUSY) };
        }
        let (server, boot) = (self.settings.server, self.boot);
        let Some(leg) = self.table.leg(claim.handle).filter(|leg| leg.head.id == claim.leg) else {
            return refused(ErrorCode::UNKNOWN_MEETING);
        };
        if !leg.is_live() {
            return refused(ErrorCode::ENDED);
        }
        let said = Claim { server, boot, handle: claim.handle, leg: claim.leg, token };
        if let Some(retry_after_ms) = self.guesses.locked(claim.handle, now_ms) {
            return TakeoverResult { retry_after_ms, ..refused(ErrorCode::BUSY) };
        }
        if !proof::verify(&leg.head.secret, &said, &claim.proof) && holds(Guard::TakeoverProof) {
            self.guesses.wrong(claim.handle, now_ms);
            return refused(ErrorCode::BAD_KEY);
        }
        let (mark, intent, before) = (leg.head.mark, leg.head.intent, leg.head.token);
        self.count_execution(token, before);
        self.give(claim.handle, token);
        TakeoverResult { mark: self.told(mark), intent, ..refused(ErrorCode::OK) }
    }

    /// From now on `token` commands the leg.
    pub(super) fn give(&mut self, handle: Handle, token: Token) {
        if let Some(leg) = self.table.leg_mut(handle) {
            leg.head.token = token;
        }
    }

    /// The mark as it is told: wrong if the server is told to lie.
    pub(super) fn told(&mut self, mark: Mark) -> Mark {
        if self.misbehaviour != Misbehaviour::WrongDigest {
            return mark;
        }
        self.stats.breaches += 1;
        Mark { digest: mark.digest.plus(Digest(1)), ..mark }
    }

    pub(super) fn adopt(&mut self, asked: Asked, adopt: &Adopt) {
        let Some(token) = self.fenced(asked) else { return };
        if let Some(retry_after_ms) = self.busy_ms {
            return self.busy(asked, retry_after_ms);
        }
        if !self.in_window(asked) {
            return;
        }
        let code = self.adoption(token, adopt);
        let head = self.table.leg(adopt.handle).map(|leg| (leg.head.mark, leg.head.intent)).filter(|_| code.is_ok());
        let answer = AdoptAnswer {
            code,
            boot: self.boot,
            table_revision: self.table.revision,
            mark: head.map_or_else(Mark::default, |(mark, _)| self.told(mark)),
            intent: head.map_or(0, |(_, intent)| intent),
        };
        self.answer(asked, vec![answer.into()]);
    }

    fn adoption(&mut self, token: Token, adopt: &Adopt) -> ErrorCode {
        if !self.settings.permit_adopt {
            return ErrorCode::NOT_ALLOWED;
        }
        let Some(leg) = self.table.leg(adopt.handle) else { return ErrorCode::UNKNOWN_MEETING };
        if leg.head.id != adopt.old && leg.head.id != adopt.new {
            return ErrorCode::UNKNOWN_MEETING;
        }
        if !leg.is_live() {
            return ErrorCode::ENDED;
        }
        let namesake = self.table.handle(&adopt.new).filter(|handle| *handle != adopt.handle);
        if let Some(namesake) = namesake.and_then(|handle| self.table.leg(handle)) {
            return if namesake.is_live() { ErrorCode::EXISTS } else { ErrorCode::ENDED };
        }
        let repeated = leg.head.id == adopt.new && leg.head.secret == adopt.secret;
        let before = leg.head.token;
        self.count_execution(token, before);
        let adoption = Adoption {
            handle: adopt.handle,
            id: adopt.new,
            secret: adopt.secret.clone(),
            generation: adopt.generation,
            token,
        };
        self.journal.note(&Entry::Adopted(adoption.clone()));
        self.carry_out_adoption(adoption);
        self.stats.adoptions += u64::from(!repeated);
        ErrorCode::OK
    }

    /// Gives a leg its new name, key and commander.
    pub(super) fn carry_out_adoption(&mut self, adoption: Adoption) {
        self.table.rename(adoption.handle, adoption.id);
        if let Some(leg) = self.table.leg_mut(adoption.handle) {
            if leg.head.secret != adoption.secret {
                // Under a new key intents are numbered anew (SPEC T-7).
                (leg.head.intent, leg.head.kept) = (0, None);
            }
            leg.head.secret = adoption.secret;
            leg.head.generation = adoption.generation;
            leg.head.token = adoption.token;
        }
    }
}
