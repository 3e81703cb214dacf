//! What is in flight: one table of requests with their repeats and deadlines.
//!
//! ```text
//!   queue --launch--> flight --answer--> heard
//!                     |  ^ '--busy--> parked --pause over--.
//!                     '--+--- repeat (same id), next page (next id) <--'
//! ```

use super::conversation::{Control, Phase, Session};
use super::counters::Misbehaviour;
use super::question::{Lane, Question, Step};
use super::queue::{Open, Waiting};
use super::{RequestError, Ticket};
use crate::model::Moment;
use rand::Rng;
use remeet_protocol::ErrorCode;
use remeet_protocol::message::{Failure, Op};
use remeet_protocol::packet::Header;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A request is never repeated within less, whatever the settings say.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// A request in flight.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) ticket: Ticket,
    pub(super) question: Question,
    deadline: Moment,
    due: Moment,
    /// Sendings since something last came back.
    sendings: u32,
    pause: Duration,
    parked: bool,
    /// The last `busy` or `retry`: what the asker hears when the deadline comes.
    refused: Option<Failure>,
}

impl Exchange {
    fn is_active_command(&self) -> bool {
        self.question.lane() == Lane::Command && !self.parked
    }
}

/// Every request in flight, by request id.
#[derive(Debug, Default)]
pub(super) struct Flight {
    open: BTreeMap<u64, Exchange>,
    timers: BTreeSet<(Moment, u64)>,
    parked: usize,
    pulls: usize,
    /// Those that count against the window.
    commands: usize,
}

impl Flight {
    /// Requests that count against the window.
    pub(super) fn active(&self) -> usize {
        self.open.len() - self.parked
    }

    /// Requests that wait out a `busy`.
    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    /// When the next repeat or deadline is due.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.timers.first().map(|(due, _)| *due)
    }

    pub(super) fn question(&mut self, request: u64) -> Option<(Ticket, &mut Question)> {
        self.open.get_mut(&request).map(|exchange| (exchange.ticket, &mut exchange.question))
    }

    fn insert(&mut self, request: u64, exchange: Exchange) {
        self.timers.insert((exchange.due, request));
        self.parked += usize::from(exchange.parked);
        self.pulls += usize::from(exchange.question.lane() == Lane::Pull);
        self.commands += usize::from(exchange.is_active_command());
        self.open.insert(request, exchange);
    }

    fn remove(&mut self, request: u64) -> Option<Exchange> {
        let exchange = self.open.remove(&request)?;
        self.timers.remove(&(exchange.due, request));
        self.parked -= usize::from(exchange.parked);
        self.pulls -= usize::from(exchange.question.lane() == Lane::Pull);
        self.commands -= usize::from(exchange.is_active_command());
        Some(exchange)
    }

    /// Takes out what satisfies `of`, oldest first.
    fn drain(&mut self, of: impl Fn(&Question) -> bool) -> Vec<Exchange> {
        let requests: Vec<u64> =
            self.open.iter().filter(|(_, exchange)| of(&exchange.question)).map(|(request, _)| *request).collect();
        requests.into_iter().filter_map(|request| self.remove(request)).collect()
    }
}

impl Session {
    /// The next request id: rises for as long as the session lives, over all its connections.
    pub(super) fn fresh_request(&mut self) -> u64 {
        self.request += 1;
        self.request
    }

    /// A pause with up to a fifth more or less, so that repeats do not march in step.
    pub(super) fn jittered(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(0.8..1.2))
    }

    /// Sends what may leave now.
    pub(super) fn pump(&mut self) {
        while matches!(self.phase, Phase::Up(_)) {
            let (window, commands) = (self.settings.window, self.settings.command_window());
            let room = self.flight.active() < window;
            // Commands that come back from waiting out a `busy` may be more than the window: the rest keeps its part.
            if !room && self.flight.active() - self.flight.commands >= (window - commands).max(1) {
                break;
            }
            let open = Open {
                control: matches!(self.control, Control::Attached { .. }),
                commands: room && self.flight.commands < commands,
                pulls: self.flight.pulls < self.settings.pull_window,
            };
            let Some(Waiting { ticket, question, .. }) = self.queue.next(open, &self.settings) else { break };
            // An adoption may be asked for by a client and by a round: then both are answered.
            let again = self.unanswered.id(&question).filter(|request| !self.flight.open.contains_key(request));
            let request = again.unwrap_or_else(|| self.fresh_request());
            self.transmit(request, self.exchange(ticket, question));
        }
    }

    fn exchange(&self, ticket: Ticket, question: Question) -> Exchange {
        Exchange {
            ticket,
            question,
            deadline: self.now + self.settings.answer_deadline,
            due: self.now,
            sendings: 0,
            pause: self.settings.answer_timeout,
            parked: false,
            refused: None,
        }
    }

    /// Sends a request, and puts it (back) into the table.
    fn transmit(&mut self, request: u64, mut exchange: Exchange) {
        exchange.sendings += 1;
        exchange.parked = false;
        let pause = self.jittered(exchange.pause).max(PAUSE_MIN);
        let only_awaited = self.settings.stream && exchange.question.is_paged();
        exchange.due = if only_awaited { exchange.deadline } else { (self.now + pause).min(exchange.deadline) };
        exchange.pause = (exchange.pause * 2).min(self.settings.answer_timeout_max);
        self.unanswered.sent(&exchange.question, request);
        self.emit(Header { request, ..Header::default() }, exchange.question.message());
        self.flight.insert(request, exchange);
    }

    /// Sends again what is due, and gives up what is late.
    pub(super) fn repeat_due(&mut self) {
        while let Some((due, request)) = self.flight.timers.first().copied()
            && due <= self.now
        {
            let Some(mut exchange) = self.flight.remove(request) else { break };
            let silent = exchange.sendings >= self.settings.sendings_max && !exchange.question.has_part();
            if self.now >= exchange.deadline || silent {
                self.counters.unanswered += u64::from(exchange.refused.is_none());
                let error = exchange.refused.take().map_or(RequestError::NoAnswer, RequestError::Refused);
                self.fail(exchange.ticket, exchange.question, error);
                continue;
            }
            self.counters.retries += 1;
            exchange.question.again();
            // After `busy` the request had no effect, and keeps its id (SPEC M-5).
            let fresh = exchange.question.is_paged() && !exchange.parked;
            let request = if fresh { self.fresh_request() } else { request };
            self.transmit(request, exchange);
        }
    }

    /// Carries out what a packet of an answer did.
    pub(super) fn step(&mut self, request: u64, step: Step) {
        let Some(mut exchange) = self.flight.remove(request) else { return };
        match step {
            Step::Repeat => self.flight.insert(request, exchange),
            Step::Part | Step::Holes => {
                // A link that reorders brings what is missing a moment later.
                let wait = self.settings.gap_timeout / if step == Step::Holes { 4 } else { 1 };
                exchange.sendings = 0;
                exchange.parked = false;
                let only_awaited = self.settings.stream && step == Step::Part;
                exchange.due = if only_awaited { exchange.deadline } else { (self.now + wait).min(exchange.deadline) };
                self.flight.insert(request, exchange);
            }
            Step::Afresh if exchange.sendings >= self.settings.sendings_max => {
                self.counters.unanswered += 1;
                self.fail(exchange.ticket, exchange.question, RequestError::NoAnswer);
            }
            Step::Afresh => {
                exchange.question.again();
                self.counters.retries += 1;
                let request = self.fresh_request();
                self.transmit(request, exchange);
            }
            Step::Next => {
                let request = self.fresh_request();
                self.transmit(request, self.exchange(exchange.ticket, exchange.question));
            }
            Step::Done => self.unanswered.answered(&exchange.question),
            Step::Broken(reason) => {
                let error = RequestError::Broken(reason.clone());
                self.fail(exchange.ticket, exchange.question, error);
                self.misbehaved(Misbehaviour::Answer, reason);
            }
        }
    }

    /// The server answered a request with a failure.
    pub(super) fn refused(&mut self, request: u64, failure: Failure) {
        let Some(mut exchange) = self.flight.remove(request) else { return };
        match (failure.code, &mut exchange.question) {
            (ErrorCode::BUSY | ErrorCode::RETRY, _) => {
                let asked = Duration::from_millis(failure.retry_after_ms.into());
                let wait = asked.max(self.settings.busy_pause_min);
                // As long as the server asked for, and a random part of up to a half of it (SPEC M-6).
                let due = self.now + wait.mul_f64(self.rng.random_range(1.0..1.5));
                if due >= exchange.deadline {
                    self.fail(exchange.ticket, exchange.question, RequestError::Refused(failure));
                    return;
                }
                exchange.due = due;
                exchange.sendings = 0;
                exchange.pause = self.settings.answer_timeout;
                exchange.refused = Some(failure);
                exchange.parked = self.flight.parked < self.settings.parked_max;
                self.flight.insert(request, exchange);
            }
            (ErrorCode::STALE_TOKEN, question) if question.needs_token() => {
                self.flight.insert(request, exchange);
                self.fenced(failure);
            }
            // It may have run, long ago: a new inventory says what has become of it before it is asked under another id.
            (ErrorCode::BELOW_WINDOW, Question::Command(command)) if matches!(command.op, Op::Start(_)) => {
                self.unanswered.forget(&exchange.question);
                self.fail(exchange.ticket, exchange.question, RequestError::Refused(failure));
            }
            (ErrorCode::BELOW_WINDOW, _) if exchange.sendings < self.settings.sendings_max => {
                self.counters.retries += 1;
                let request = self.fresh_request();
                self.transmit(request, exchange);
            }
            (ErrorCode::CUT_GONE, Question::Inventory(reading)) => {
                if !reading.restart(&self.settings) {
                    self.fail(exchange.ticket, exchange.question, RequestError::Refused(failure));
                    return;
                }
                self.counters.retries += 1;
                let request = self.fresh_request();
                self.transmit(request, self.exchange(exchange.ticket, exchange.question));
            }
            _ => self.fail(exchange.ticket, exchange.question, RequestError::Refused(failure)),
        }
    }

    pub(super) fn fail(&mut self, ticket: Ticket, question: Question, error: RequestError) {
        self.heard.push_back(question.failed(ticket, error));
    }

    /// Ends everything that satisfies `of` with one error: in flight, queued, and waiting for the store.
    pub(super) fn fail_all(&mut self, of: impl Fn(&Question) -> bool, error: &RequestError) {
        for exchange in self.flight.drain(&of) {
            self.fail(exchange.ticket, exchange.question, error.clone());
        }
        for waiting in self.queue.drain(&of) {
            self.fail(waiting.ticket, waiting.question, error.clone());
        }
    }
}
