//! Attach: the fence. The highest token is written down before its attach is answered; from then on
//! every older one is refused (rule 2, SPEC T-1, T-3).

use super::journal::Entry;
use super::window::Place;
use super::{Asked, ConnectionId, Core};
use crate::guard::{Guard, holds};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{Attach, Attached, EventAck, Failure};
use remeet_protocol::{Address, BootId, ErrorCode, Token};
use std::collections::VecDeque;

/// Tokens whose sessions are remembered, so that they are told `stale token` (SPEC T-5).
const SESSIONS_MAX: usize = 16;

/// The sessions given out in this life of the process, the current one last.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    given: VecDeque<(u64, Token)>,
    /// Where events go: the connection of the current session's latest attach.
    pub(super) events_to: Option<(ConnectionId, Address)>,
    /// The request id of that attach.
    latest: u64,
}

impl Sessions {
    /// The session of the token that attached last.
    pub(super) fn current(&self) -> Option<(u64, Token)> {
        self.given.back().copied()
    }

    fn token(&self, session: u64) -> Option<Token> {
        self.given.iter().find(|(given, _)| *given == session).map(|(_, token)| *token)
    }

    fn open(&mut self, session: u64, token: Token) {
        if self.current() != Some((session, token)) {
            self.given.push_back((session, token));
            self.latest = 0;
            if self.given.len() > SESSIONS_MAX {
                self.given.pop_front();
            }
        }
    }
}

impl Core {
    pub(super) fn attach(&mut self, asked: Asked, attach: &Attach) {
        let token = attach.token;
        if !self.fence.unwrap_or_default().admits(&token) && holds(Guard::ServerToken) {
            self.stats.attaches_refused += 1;
            return self.stale(asked);
        }
        if self.fence != Some(token) {
            self.fence = Some(token);
            self.window = Default::default();
            self.journal.note(&Entry::Attached(token));
        }
        self.stats.attaches += 1;
        let session = session_number(self.boot, token, self.seed);
        self.sessions.open(session, token);
        // An earlier one that comes late, from a connection that is over, must not draw the events there (SPEC T-5).
        if self.sessions.events_to.is_none() || asked.header.request >= self.sessions.latest {
            self.sessions.latest = asked.header.request;
            self.sessions.events_to = Some((asked.connection, asked.from));
            self.release();
            self.events.rewind();
        }
        let attached = Attached { session, boot: self.boot, table_revision: self.table.revision };
        self.answer(asked, vec![attached.into()]);
        self.pump();
    }

    pub(super) fn acknowledge(&mut self, asked: Asked, ack: &EventAck) {
        // A notice: one of an older session, or of what was not sent yet, is ignored (SPEC E-3).
        if self.session_token(asked).is_err() || !self.events.can_acknowledge(ack.number) {
            return;
        }
        self.journal.note(&Entry::Acknowledged(ack.number));
        self.forget_events(ack.number);
        self.pump();
    }

    /// Forgets events, and the tombstones that they announced (rule 9, SPEC E-8).
    pub(super) fn forget_events(&mut self, number: u64) {
        for handle in self.events.acknowledge(number) {
            self.table.purge(handle);
            self.guesses.forget(handle);
        }
    }

    /// The token of the current session, if the request names it (SPEC T-5).
    fn session_token(&self, asked: Asked) -> Result<Token, ErrorCode> {
        let session = asked.header.session;
        match (self.sessions.token(session), self.fence) {
            (Some(token), Some(highest)) if token == highest || !holds(Guard::ServerToken) => Ok(token),
            (Some(_), _) => Err(ErrorCode::STALE_TOKEN),
            (None, _) => Err(ErrorCode::NOT_ATTACHED),
        }
    }

    /// The token for which a request in a session is carried out; none if it was refused here.
    pub(super) fn admit(&mut self, asked: Asked) -> Option<Token> {
        let token = self.fenced(asked)?;
        self.in_window(asked).then_some(token)
    }

    /// The same without noting the request's id: one that is refused with a `Failure` does not count as seen
    /// (SPEC T-8).
    pub(super) fn fenced(&mut self, asked: Asked) -> Option<Token> {
        match self.session_token(asked) {
            Ok(token) => Some(token),
            Err(ErrorCode::STALE_TOKEN) => {
                self.stale(asked);
                None
            }
            Err(code) => {
                self.fail(asked, Failure::new(code, code.sentence()));
                None
            }
        }
    }

    /// Counts a query that names the session; it needs none.
    pub(super) fn admit_reading(&mut self, asked: Asked) -> bool {
        self.session_token(asked).is_err() || self.in_window(asked)
    }

    /// Notes the request's id (SPEC T-8). A repeat is carried out again: intents and idempotence see to it
    /// that it has no second effect.
    pub(super) fn in_window(&mut self, asked: Asked) -> bool {
        let place = self.window.note(asked.header.request);
        self.repeated = place == Place::Seen;
        match place {
            Place::New => self.journal.note(&Entry::Seen(asked.header.request)),
            Place::Seen => self.stats.repeats += 1,
            Place::Below => {
                self.stats.below_window += 1;
                self.fail(asked, Failure::new(ErrorCode::BELOW_WINDOW, ErrorCode::BELOW_WINDOW.sentence()));
                return false;
            }
        }
        true
    }

    /// Refuses for a newer token, and names it.
    pub(super) fn stale(&mut self, asked: Asked) {
        self.stats.stale_refused += 1;
        let code = ErrorCode::STALE_TOKEN;
        let failure = Failure { token: self.fence.unwrap_or_default(), ..Failure::new(code, code.sentence()) };
        self.fail(asked, failure);
    }

    /// Counts, at the very place where something is done for a token, whether it should not have been
    /// (rules 2 and 3). `on` is who acted on the leg before.
    pub(super) fn count_execution(&mut self, token: Token, on: Token) {
        let fenced = self.fence.is_none_or(|highest| token != highest);
        if fenced || token.epoch < on.epoch {
            self.stats.stale_executed += 1;
        }
    }

    pub(super) fn busy(&mut self, asked: Asked, retry_after_ms: u32) {
        self.stats.busy_answers += 1;
        let failure = Failure { retry_after_ms, ..Failure::new(ErrorCode::BUSY, "the server cannot do it now") };
        self.fail(asked, failure);
    }
}

/// A number for (boot id, token) that nobody guesses who does not know the seed: the same token gets the
/// same one as long as the server runs, any other token another.
fn session_number(boot: BootId, token: Token, seed: u64) -> u64 {
    let mut key = [0; 32];
    for (place, byte) in key.iter_mut().zip(boot.bytes().into_iter().chain(token.holder.bytes())) {
        *place = byte;
    }
    // Two words of the key are mixed with what is not an id: epoch and seed.
    for (place, byte) in key.iter_mut().zip(token.epoch.0.to_be_bytes().into_iter().chain(seed.to_be_bytes())) {
        *place ^= byte;
    }
    ChaCha8Rng::from_seed(key).next_u64().max(1)
}
