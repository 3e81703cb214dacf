//! A store that fails when told to: for tests of what stands above it.

use super::{Begun, Candidate, Instance, LookUp, Outcome, Schema, Standing, Store, StoreError, Unit};
use crate::model::{LegContent, StoredLeg};
use futures_util::future::BoxFuture;
use remeet_protocol::record::Number;
use remeet_protocol::{LegId, MeetingId, ServerId, Token};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A call of [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the method of its name
pub enum Call {
    Migrate,
    Schema,
    BeginTerm,
    Standing,
    Renew,
    Release,
    Released,
    LookUp,
    Legs,
    Meeting,
    LiveLegs,
    Contents,
    Roster,
    Instance,
    Write,
    Settle,
    PruneAnswers,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Not done, and [`StoreError::Unavailable`].
    Unavailable,
    /// Not done, and [`StoreError::Unknown`]: the commit was lost.
    UnknownNotDone,
    /// Done, and [`StoreError::Unknown`]: the commit's answer was lost.
    UnknownDone,
    /// Not done, and [`StoreError::Fenced`].
    Fenced,
    /// Not done: the call panics.
    Panics,
}

#[derive(Debug, Default)]
struct Plan {
    next: HashMap<Call, VecDeque<Failure>>,
    always: HashMap<Call, Failure>,
    calls: HashMap<Call, u64>,
}

/// Wraps a store; every call not told to fail goes through.
pub struct FailingStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

impl FailingStore {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, plan: Mutex::default() }
    }

    /// The next such call that has no failure yet fails so.
    pub fn fail_next(&self, call: Call, failure: Failure) {
        self.with_plan(|plan| plan.next.entry(call).or_default().push_back(failure));
    }

    /// Every such call fails so, until it is told `None`.
    pub fn fail_always(&self, call: Call, failure: Option<Failure>) {
        self.with_plan(|plan| match failure {
            Some(failure) => plan.always.insert(call, failure),
            None => plan.always.remove(&call),
        });
    }

    /// How often a call was made, failed ones included.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.with_plan(|plan| plan.calls.get(&call).copied().unwrap_or(0))
    }

    fn with_plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn through<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        token: Token,
        done: BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let failure = self.with_plan(|plan| {
                *plan.calls.entry(call).or_default() += 1;
                let next = plan.next.get_mut(&call).and_then(VecDeque::pop_front);
                next.or_else(|| plan.always.get(&call).copied())
            });
            let (doing, reason) = ("a call that was told to fail", format!("{call:?}"));
            match failure {
                None => done.await,
                Some(Failure::Unavailable) => Err(StoreError::Unavailable { doing, reason }),
                Some(Failure::UnknownNotDone) => Err(StoreError::Unknown { doing, reason }),
                Some(Failure::UnknownDone) => {
                    done.await?;
                    Err(StoreError::Unknown { doing, reason })
                }
                Some(Failure::Fenced) => Err(StoreError::Fenced { token }),
                Some(Failure::Panics) => panic!("{call:?} was told to panic"),
            }
        })
    }
}

impl Store for FailingStore {
    fn migrate(&self) -> BoxFuture<'_, Result<Schema, StoreError>> {
        self.through(Call::Migrate, Token::default(), self.inner.migrate())
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema, StoreError>> {
        self.through(Call::Schema, Token::default(), self.inner.schema())
    }

    fn begin_term<'a>(&'a self, candidate: Candidate<'a>) -> BoxFuture<'a, Result<Begun, StoreError>> {
        let token = Token { epoch: candidate.epoch_above, holder: candidate.holder };
        self.through(Call::BeginTerm, token, self.inner.begin_term(candidate))
    }

    fn standing(&self) -> BoxFuture<'_, Result<Option<Standing>, StoreError>> {
        self.through(Call::Standing, Token::default(), self.inner.standing())
    }

    fn renew(&self, token: Token, lease: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        self.through(Call::Renew, token, self.inner.renew(token, lease))
    }

    fn release(&self, token: Token) -> BoxFuture<'_, Result<(), StoreError>> {
        self.through(Call::Release, token, self.inner.release(token))
    }

    fn released(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        let told = async move {
            self.inner.released(at_most).await;
            Ok(())
        };
        let told = self.through(Call::Released, Token::default(), Box::pin(told));
        Box::pin(async move {
            // A failed wait is a whole one.
            if told.await.is_err() {
                tokio::time::sleep(at_most).await;
            }
        })
    }

    fn look_up<'a>(&'a self, server: ServerId, legs: &'a [LegId]) -> BoxFuture<'a, Result<LookUp, StoreError>> {
        self.through(Call::LookUp, Token::default(), self.inner.look_up(server, legs))
    }

    fn legs<'a>(&'a self, legs: &'a [LegId]) -> BoxFuture<'a, Result<LookUp, StoreError>> {
        self.through(Call::Legs, Token::default(), self.inner.legs(legs))
    }

    fn meeting(&self, meeting: MeetingId) -> BoxFuture<'_, Result<Vec<StoredLeg>, StoreError>> {
        self.through(Call::Meeting, Token::default(), self.inner.meeting(meeting))
    }

    fn live_legs(&self, after: MeetingId, max: u16) -> BoxFuture<'_, Result<Vec<StoredLeg>, StoreError>> {
        self.through(Call::LiveLegs, Token::default(), self.inner.live_legs(after, max))
    }

    fn contents<'a>(&'a self, legs: &'a [LegId]) -> BoxFuture<'a, Result<Vec<LegContent>, StoreError>> {
        self.through(Call::Contents, Token::default(), self.inner.contents(legs))
    }

    fn roster<'a>(&'a self, meeting: MeetingId, terminal: &'a Number) -> BoxFuture<'a, Result<Vec<LegId>, StoreError>> {
        self.through(Call::Roster, Token::default(), self.inner.roster(meeting, terminal))
    }

    fn instance(&self, instance: u64) -> BoxFuture<'_, Result<Instance, StoreError>> {
        self.through(Call::Instance, Token::default(), self.inner.instance(instance))
    }

    fn write<'a>(&'a self, token: Token, units: &'a [Unit]) -> BoxFuture<'a, Result<Vec<Outcome>, StoreError>> {
        self.through(Call::Write, token, self.inner.write(token, units))
    }

    fn settle<'a>(&'a self, token: Token, units: &'a [Unit]) -> BoxFuture<'a, Result<Vec<Outcome>, StoreError>> {
        self.through(Call::Settle, token, self.inner.settle(token, units))
    }

    fn prune_answers(
        &self,
        token: Token,
        older_than: Duration,
        instances_max: u32,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.through(Call::PruneAnswers, token, self.inner.prune_answers(token, older_than, instances_max))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
