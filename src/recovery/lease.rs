//! The lease: who may command, and until when (design §5, rule 5). Safety comes from the token that servers and
//! sinks check; the lease is for liveness, and so that a holder that is cut off falls silent by itself.
//!
//! ```text
//!              granted                          another term stands
//!   STANDBY ------------> ACTIVE -----------------------------------------> OVER
//!      ^  | held: asked      |  ^                                            ^
//!      |  | again when it    |  | renewed                                    |
//!      +--+ can have run out |  |             confirmed, and a server        |
//!                            v  |             reports a higher epoch         |
//!                         LAPSED: hands over no command --------------------+
//! ```
//!
//! Every deadline is counted from before the store was asked, by the process's own monotonic clock. One question
//! is under way at a time. A lapsed holder whose term still stands goes on when a renewal succeeds: nobody has
//! taken over.

use super::takeover::millis;
use crate::guard::{Guard, holds};
use crate::model::Moment;
use remeet_protocol::{Epoch, Message, ServerId, Token};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How far above the own epoch a server's may be to be believed: beyond it is a damaged number, not a history.
const EVIDENCE_ABOVE_MAX: u64 = 1 << 20;
/// How often one server's evidence is acted on: a server that raises its epoch by itself must not keep a
/// scheduler beginning terms.
const EVIDENCE_EVERY: Duration = Duration::from_secs(3_600);

/// Periods of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTiming {
    /// How long a lease lasts from when the store grants or renews it.
    pub lease: Duration,
    /// A third of it: two renewals may fail before it ends.
    pub renew_every: Duration,
    /// A holder stops commanding this long before its lease could have run out.
    pub stop_before: Duration,
    /// Pause after a question that the store did not answer; doubles up to `retry_max`.
    pub retry: Duration,
    /// The longest of these pauses.
    pub retry_max: Duration,
    /// A standby asks at least this often, whatever it was told: a lease may be released early.
    pub poll: Duration,
    /// A standby asks this much later than the lease can have run out. Differs between standbys, so that they do
    /// not all ask at the same moment.
    pub spread: Duration,
}

impl LeaseTiming {
    /// Periods that fit a lease of this length: renewed each third, given up a sixth before its end (design §5:
    /// 6 s, 2 s, 1 s).
    #[must_use]
    pub fn of(lease: Duration, spread: Duration) -> Self {
        Self {
            lease,
            renew_every: lease / 3,
            stop_before: lease / 6,
            retry: lease / 60,
            retry_max: lease / 6,
            poll: lease / 6,
            spread,
        }
    }
}

/// What the store is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAsk {
    /// Begin a term with an epoch above this.
    Begin {
        /// Zero, unless a server has reported a higher one.
        above: Epoch,
    },
    /// Renew the lease of this term.
    Renew(Token),
}

/// What the store answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The term began.
    Granted(Token),
    /// Another node's lease stands.
    Held(Incumbent),
    /// The lease lasts a full length from when this was asked.
    Renewed,
    /// Another term stands.
    Fenced,
    /// No answer.
    Failed(String),
}

/// Who holds the term that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incumbent {
    /// Its node.
    pub node: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// What its lease had left, by the store's clock.
    #[serde(skip, default)]
    pub remaining: Duration,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseChange {
    /// This process holds the term from now on.
    Began {
        /// The term.
        token: Token,
        /// The epoch up to which the database had lost terms, if that is why this one began.
        lost: Option<Epoch>,
    },
    /// Another node holds it, or another one than before.
    Held(Incumbent),
    /// The lease could have run out: no command is handed over until it is renewed.
    Lapsed,
    /// It was renewed after it had lapsed.
    Resumed,
    /// This life is over.
    Over(LifeEnd),
}

/// Why a holder's life is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeEnd {
    /// Another term stands.
    Fenced,
    /// The database has lost terms that a server knows: the next term begins above this epoch.
    Regressed(Epoch),
}

/// What becomes of a server's report of a newer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It is not above what this process holds, or this process holds nothing.
    None,
    /// The store is asked whether the own term stands; if so, the database has gone back.
    Checking,
    /// Not believed: the server stays in quarantine. The text says why.
    Refused(&'static str),
}

/// The lease of one process; it stays over the lives of its schedulers.
#[derive(Debug)]
pub struct Lease {
    timing: LeaseTiming,
    state: State,
    /// The question under way, and when it was asked.
    asked: Option<(Moment, LeaseAsk)>,
    next_at: Moment,
    /// A standby that has handed over does not ask before this.
    held_back_until: Moment,
    pause: Duration,
    above: Epoch,
    /// What servers have reported and the database has not been heard on yet.
    evidence: Option<Reported>,
    /// When a term began because of each server's evidence; bounded by the configured servers.
    acted: BTreeMap<ServerId, Moment>,
    trouble: Option<String>,
}

/// A higher epoch than this process's.
#[derive(Debug)]
struct Reported {
    /// When it was first heard of. A repeat does not make it later, or a server could put the answer off for ever.
    heard: Moment,
    epoch: Epoch,
    /// Whose word it is; bounded by the configured servers.
    by: BTreeSet<ServerId>,
}

#[derive(Debug)]
enum State {
    Standby(Option<(Moment, Incumbent)>),
    Active { token: Token, until: Moment, lapsed: bool },
    Over,
}

/// The lease as the operator is shown it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "role")]
pub enum LeaseView {
    /// Another node's term stands, or the store does not answer.
    Standby {
        /// Who holds the term, as last heard.
        incumbent: Option<Incumbent>,
        /// What that lease has left, in milliseconds.
        incumbent_remaining_ms: u64,
        /// This process holds back from asking for this long: it has handed over.
        held_back_ms: u64,
    },
    /// This process holds the term.
    Active {
        /// It commands for this long yet without another renewal, in milliseconds.
        commands_for_ms: u64,
    },
    /// This process holds the term, but commands nothing until its lease is renewed.
    Lapsed,
    /// This life is over.
    Over,
}

impl Lease {
    /// A standby that asks from now on.
    #[must_use]
    pub fn new(timing: LeaseTiming) -> Self {
        let pause = timing.retry;
        Self {
            timing,
            state: State::Standby(None),
            asked: None,
            next_at: Moment::default(),
            held_back_until: Moment::default(),
            pause,
            above: Epoch(0),
            evidence: None,
            acted: BTreeMap::new(),
            trouble: None,
        }
    }

    /// Another life begins as a standby, which does not ask before `not_before`: one that has handed over leaves
    /// the others time to take the term, since its own node would be granted it at once.
    pub fn live_again(&mut self, not_before: Moment) {
        self.state = State::Standby(None);
        self.asked = None;
        self.evidence = None;
        self.next_at = not_before;
        self.held_back_until = not_before;
        self.pause = self.timing.retry;
    }

    /// What the store is to be asked now, if something is due.
    pub fn ask(&mut self, now: Moment) -> Option<LeaseAsk> {
        if self.asked.is_some() || self.next_at > now {
            return None;
        }
        let ask = match &self.state {
            State::Standby(_) => LeaseAsk::Begin { above: self.above },
            State::Active { token, .. } => LeaseAsk::Renew(*token),
            State::Over => return None,
        };
        self.asked = Some((now, ask));
        Some(ask)
    }

    /// The store answered the question under way.
    pub fn answered(&mut self, now: Moment, answer: LeaseAnswer) -> Option<LeaseChange> {
        let (asked_at, ask) = self.asked.take()?;
        if let LeaseAnswer::Failed(reason) = answer {
            self.trouble = Some(reason);
            self.next_at = now + self.pause;
            self.pause = (self.pause * 2).min(self.timing.retry_max);
            return None;
        }
        self.trouble = None;
        self.pause = self.timing.retry;
        match (answer, ask, &mut self.state) {
            (LeaseAnswer::Granted(token), LeaseAsk::Begin { .. }, State::Standby(_)) => {
                let lost = Some(std::mem::take(&mut self.above)).filter(|epoch| *epoch > Epoch(0));
                self.state = State::Active { token, until: self.timing.until(asked_at), lapsed: false };
                self.next_at = asked_at + self.timing.renew_every;
                Some(LeaseChange::Began { token, lost })
            }
            (LeaseAnswer::Held(incumbent), LeaseAsk::Begin { .. }, State::Standby(before)) => {
                self.next_at = now + (incumbent.remaining + self.timing.spread).min(self.timing.poll);
                let same =
                    |(_, known): &(Moment, Incumbent)| (known.epoch, &known.node) == (incumbent.epoch, &incumbent.node);
                let changed = !before.as_ref().is_some_and(same);
                *before = Some((now, incumbent.clone()));
                changed.then_some(LeaseChange::Held(incumbent))
            }
            (LeaseAnswer::Renewed, LeaseAsk::Renew(_), State::Active { until, lapsed, .. }) => {
                *until = self.timing.until(asked_at).max(*until);
                self.next_at = asked_at + self.timing.renew_every;
                let resumed = *lapsed && now < *until;
                *lapsed &= !resumed;
                // Only an answer to a question that was asked after the evidence says that the term stands.
                if let Some(reported) = self.evidence.take_if(|reported| reported.heard <= asked_at) {
                    self.above = reported.epoch;
                    self.acted.extend(reported.by.into_iter().map(|server| (server, now)));
                    return Some(self.over(LifeEnd::Regressed(reported.epoch)));
                }
                resumed.then_some(LeaseChange::Resumed)
            }
            (LeaseAnswer::Fenced, LeaseAsk::Renew(_), State::Active { .. }) => Some(self.over(LifeEnd::Fenced)),
            // The store answers each question with an answer of its own.
            _ => None,
        }
    }

    /// A write of this term was refused: another one stands.
    pub fn fenced(&mut self) {
        self.state = State::Over;
    }

    /// A release was told: a standby asks at once.
    pub fn released(&mut self, now: Moment) {
        if let State::Standby(Some(_)) = self.state {
            self.next_at = now;
        }
    }

    /// Whether a command may be handed to a link (rule 5).
    #[must_use]
    pub fn may_command(&self, now: Moment) -> bool {
        let in_time = |until: &Moment, lapsed: &bool| (now < *until && !lapsed) || !holds(Guard::SelfStop);
        matches!(&self.state, State::Active { until, lapsed, .. } if in_time(until, lapsed))
    }

    /// A timer is due, or may be.
    pub fn wake(&mut self, now: Moment) -> Option<LeaseChange> {
        match &mut self.state {
            State::Active { until, lapsed, .. } if *until <= now && !*lapsed => {
                *lapsed = true;
                Some(LeaseChange::Lapsed)
            }
            _ => None,
        }
    }

    /// When to call [`wake`](Self::wake) and [`ask`](Self::ask) at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Moment> {
        let ask = self.asked.is_none().then_some(self.next_at);
        match &self.state {
            State::Active { until, lapsed: false, .. } => Some(ask.map_or(*until, |ask| ask.min(*until))),
            State::Over => None,
            State::Active { .. } | State::Standby(_) => ask,
        }
    }

    /// A server has admitted a newer token than this process's.
    pub fn evidence(&mut self, now: Moment, server: ServerId, epoch: Epoch) -> Evidence {
        let State::Active { token, .. } = &self.state else { return Evidence::None };
        // The same epoch under another holder: two grants of one epoch, so one of them is forgotten.
        if epoch < token.epoch {
            return Evidence::None;
        }
        if epoch.0 - token.epoch.0 > EVIDENCE_ABOVE_MAX {
            return Evidence::Refused("its epoch is more than 2^20 above this scheduler's");
        }
        if self.acted.get(&server).is_some_and(|at| now < *at + EVIDENCE_EVERY) {
            return Evidence::Refused("it has reported a higher epoch within the last hour already");
        }
        let reported = self.evidence.get_or_insert_with(|| Reported { heard: now, epoch, by: BTreeSet::new() });
        if reported.epoch < epoch {
            (reported.heard, reported.epoch) = (now, epoch);
        }
        reported.by.insert(server);
        self.next_at = now;
        Evidence::Checking
    }

    /// The term that this process holds.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        match &self.state {
            State::Active { token, .. } => Some(*token),
            State::Standby(_) | State::Over => None,
        }
    }

    /// Who holds the term instead, as a standby last heard.
    #[must_use]
    pub fn incumbent(&self) -> Option<&Incumbent> {
        match &self.state {
            State::Standby(known) => known.as_ref().map(|(_, incumbent)| incumbent),
            State::Active { .. } | State::Over => None,
        }
    }

    /// It has handed over, and leaves the others time to take the term.
    #[must_use]
    pub fn is_held_back(&self, now: Moment) -> bool {
        matches!(self.state, State::Standby(_)) && now < self.held_back_until
    }

    /// A question is under way.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Why the store did not answer the last question.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What is shown.
    #[must_use]
    pub fn view(&self, now: Moment) -> LeaseView {
        match &self.state {
            State::Standby(known) => LeaseView::Standby {
                incumbent: known.as_ref().map(|(_, incumbent)| incumbent.clone()),
                incumbent_remaining_ms: known
                    .as_ref()
                    .map_or(0, |(heard, incumbent)| millis(incumbent.remaining.saturating_sub(now.since(*heard)))),
                held_back_ms: millis(self.held_back_until.since(now)),
            },
            State::Active { lapsed: true, .. } => LeaseView::Lapsed,
            State::Active { until, .. } => LeaseView::Active { commands_for_ms: millis(until.since(now)) },
            State::Over => LeaseView::Over,
        }
    }

    fn over(&mut self, end: LifeEnd) -> LeaseChange {
        self.state = State::Over;
        LeaseChange::Over(end)
    }
}

/// Whether a message changes who commands, or what a server does: what rule 5 is about.
#[must_use]
pub fn commands(message: &Message) -> bool {
    matches!(message, Message::Attach(_) | Message::Takeover(_) | Message::Adopt(_) | Message::Command(_))
}

impl LeaseTiming {
    /// Until when a holder commands whose lease was asked for then.
    fn until(&self, asked_at: Moment) -> Moment {
        asked_at + self.lease.saturating_sub(self.stop_before)
    }
}
