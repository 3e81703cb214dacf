//! Takeover by proof (SPEC T-2 to T-7) and adoption of orphans (T-8, T-9).

use super::attach::Admission;
use super::journal::{Adoption, Entry};
use super::{Asked, Core, Misbehaviour};
use remeet_protocol::message::{Adopt, AdoptAnswer, Message, Takeover, TakeoverAnswer, TakeoverClaim, TakeoverResult};
use remeet_protocol::packet::BODY_BYTES_MAX;
use remeet_protocol::proof::{self, Claim};
use remeet_protocol::record::{Digest, Mark};
use remeet_protocol::wire::pack;
use remeet_protocol::{ErrorCode, Handle, Token};

/// Room for the results in an answer: the body without boot id and table revision.
const RESULTS_ROOM: usize = BODY_BYTES_MAX - 24;

impl Core {
    pub(super) fn takeover(&mut self, asked: Asked, takeover: Takeover) {
        let token = match self.admit(asked) {
            Admission::Do(token) | Admission::Again(token, _) => token,
            Admission::Answered => return,
        };
        let mut taken = Vec::new();
        let results: Vec<_> = takeover
            .claims
            .iter()
            .map(|claim| {
                let result = self.claim(token, claim);
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
            self.journal.note(&Entry::Taken(asked.header.request, token, taken));
            self.window.note(asked.header.request, None);
        }
        let (boot, table_revision) = (self.boot, self.table.revision);
        let mut answers: Vec<Message> = pack(results, RESULTS_ROOM)
            .into_iter()
            .map(|results| TakeoverAnswer { boot, table_revision, results }.into())
            .collect();
        if answers.is_empty() {
            answers.push(TakeoverAnswer { boot, table_revision, results: Vec::new() }.into());
        }
        self.answer(asked, answers);
    }

    fn claim(&mut self, token: Token, claim: &TakeoverClaim) -> TakeoverResult {
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
        if !proof::verify(&leg.head.secret, &said, &claim.proof) {
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
    pub(super) fn told(&self, mark: Mark) -> Mark {
        match self.misbehaviour {
            Misbehaviour::WrongDigest => Mark { digest: mark.digest.plus(Digest(1)), ..mark },
            _ => mark,
        }
    }

    pub(super) fn adopt(&mut self, asked: Asked, adopt: &Adopt) {
        let token = match self.admit(asked) {
            Admission::Do(token) | Admission::Again(token, _) => token,
            Admission::Answered => return,
        };
        if let Some(retry_after_ms) = self.busy_ms {
            return self.busy(asked, retry_after_ms);
        }
        let code = self.adoption(asked, token, adopt);
        let head = self.table.leg(adopt.handle).map(|leg| &leg.head).filter(|_| code.is_ok());
        let answer = AdoptAnswer {
            code,
            boot: self.boot,
            table_revision: self.table.revision,
            mark: head.map_or_else(Mark::default, |head| self.told(head.mark)),
            intent: head.map_or(0, |head| head.intent),
        };
        self.answer(asked, vec![answer.into()]);
    }

    fn adoption(&mut self, asked: Asked, token: Token, adopt: &Adopt) -> ErrorCode {
        if !self.settings.permit_adopt {
            return ErrorCode::NOT_ALLOWED;
        }
        let Some(leg) = self.table.leg(adopt.handle) else { return ErrorCode::UNKNOWN_MEETING };
        let repeated = leg.head.id == adopt.new && leg.head.secret == adopt.secret;
        if leg.head.id != adopt.old && !repeated {
            return ErrorCode::UNKNOWN_MEETING;
        }
        if !leg.is_live() {
            return ErrorCode::ENDED;
        }
        if self.table.handle(&adopt.new).is_some_and(|handle| handle != adopt.handle) {
            return ErrorCode::EXISTS;
        }
        let before = leg.head.token;
        self.count_execution(token, before);
        let adoption = Adoption {
            handle: adopt.handle,
            id: adopt.new,
            secret: adopt.secret.clone(),
            generation: adopt.generation,
            token,
        };
        self.journal.note(&Entry::Adopted(asked.header.request, adoption.clone()));
        self.window.note(asked.header.request, None);
        self.carry_out_adoption(adoption);
        self.stats.adoptions += u64::from(!repeated);
        ErrorCode::OK
    }

    /// Gives a leg its new name, key and commander.
    pub(super) fn carry_out_adoption(&mut self, adoption: Adoption) {
        self.table.rename(adoption.handle, adoption.id);
        if let Some(leg) = self.table.leg_mut(adoption.handle) {
            leg.head.secret = adoption.secret;
            leg.head.generation = adoption.generation;
            leg.head.token = adoption.token;
        }
    }
}
