//! Attach: the fence. The highest token is written down before its attach is answered; from then on
//! every older one is refused (rule 2, SPEC T-1).

use super::journal::Entry;
use super::window::{Place, Window};
use super::{Asked, ConnectionId, Core};
use remeet_protocol::message::{Attach, Attached, CommandAnswer, EventAck, Failure, Message};
use remeet_protocol::{Address, ErrorCode, Token};

/// The session that may command: the last attach of the highest token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) connection: ConnectionId,
    pub(super) token: Token,
    pub(super) peer: Address,
}

/// What the window says about a request that wants an effect.
pub(super) enum Admission {
    /// Carry it out for this token.
    Do(Token),
    /// It was carried out already, with this answer or as something idempotent.
    Again(Token, Option<Box<CommandAnswer>>),
    /// It has been answered or refused.
    Answered,
}

impl Core {
    pub(super) fn attach(&mut self, asked: Asked, attach: &Attach) {
        let token = attach.token;
        if self.fence.is_some_and(|highest| !highest.admits(&token)) {
            self.stats.attaches_refused += 1;
            return self.stale(asked);
        }
        let repeated = self.session.filter(|session| {
            let given = self.connections.get(&asked.connection).and_then(|connection| connection.attached);
            session.connection == asked.connection && given == Some((session.number, token, asked.header.request))
        });
        if let Some(session) = repeated {
            // The same packet again: the same session, or the first answer would name a dead one.
            self.stats.duplicates_answered += 1;
            let attached = self.attached(session.number);
            return self.answer(asked, vec![attached]);
        }
        if self.fence != Some(token) {
            self.fence = Some(token);
            self.window = Window::default();
            self.journal.note(&Entry::Attached(token));
        }
        self.stats.attaches += 1;
        self.sessions_made += 1;
        // The restarts in the high half: no number comes twice in the life of a boot id.
        let number = ((u64::from(self.restarts) + 1) << 32) | u64::from(self.sessions_made);
        self.session = Some(Session { number, connection: asked.connection, token, peer: asked.from });
        if let Some(connection) = self.connections.get_mut(&asked.connection) {
            connection.attached = Some((number, token, asked.header.request));
        }
        self.held.clear();
        self.events.rewind();
        let attached = self.attached(number);
        self.answer(asked, vec![attached]);
        self.pump();
    }

    fn attached(&self, session: u64) -> Message {
        Attached { session, boot: self.boot, table_revision: self.table.revision }.into()
    }

    pub(super) fn acknowledge(&mut self, asked: Asked, ack: &EventAck) {
        // A notice: one of an older session is dropped without an answer.
        if self.session_token(asked).is_err() {
            return;
        }
        self.journal.note(&Entry::Acknowledged(ack.number));
        self.forget_events(ack.number);
        self.pump();
    }

    /// Forgets events, and the tombstones that they announced (rule 9).
    pub(super) fn forget_events(&mut self, number: u64) {
        for handle in self.events.acknowledge(number) {
            self.table.purge(handle);
        }
    }

    /// The token of the current session, if the request came by it.
    pub(super) fn session_token(&self, asked: Asked) -> Result<Token, ErrorCode> {
        if let Some(session) = &self.session
            && session.connection == asked.connection
            && session.number == asked.header.session
        {
            return Ok(session.token);
        }
        let given = self.connections.get(&asked.connection).and_then(|connection| connection.attached);
        match given {
            Some((number, token, _)) if number == asked.header.session && Some(token) != self.fence => {
                Err(ErrorCode::STALE_TOKEN)
            }
            _ => Err(ErrorCode::NOT_ATTACHED),
        }
    }

    /// Whether a request that wants an effect may have it; if not, it is answered here.
    pub(super) fn admit(&mut self, asked: Asked) -> Admission {
        let token = match self.session_token(asked) {
            Ok(token) => token,
            Err(ErrorCode::STALE_TOKEN) => {
                self.stale(asked);
                return Admission::Answered;
            }
            Err(code) => {
                self.fail(asked, Failure::new(code, code.sentence()));
                return Admission::Answered;
            }
        };
        match self.window.place(asked.header.request) {
            Place::New => Admission::Do(token),
            Place::Seen(kept) => {
                let kept = kept.map(|kept| Box::new(kept.clone()));
                self.stats.duplicates_answered += 1;
                Admission::Again(token, kept)
            }
            Place::Below => {
                self.stats.below_window += 1;
                self.fail(asked, Failure::new(ErrorCode::BELOW_WINDOW, ErrorCode::BELOW_WINDOW.sentence()));
                Admission::Answered
            }
        }
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
        let fenced = self.fence.is_some_and(|highest| token.epoch < highest.epoch || !highest.admits(&token));
        if fenced || token.epoch < on.epoch {
            self.stats.stale_executed += 1;
        }
    }

    pub(super) fn busy(&mut self, asked: Asked, retry_after_ms: u32) {
        let failure = Failure { retry_after_ms, ..Failure::new(ErrorCode::BUSY, "the server is told to be busy") };
        self.fail(asked, failure);
    }
}
