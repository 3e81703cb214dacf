//! Writing units: many in one transaction, and when one of them loses, the others all the same.

use super::PostgresStore;
use super::compile::compile;
use super::session::{Kind, Session, fault};
use super::statements::{Step, fenced};
use crate::store::fault::Fault;
use crate::store::judge::{Facts, applied, predict, unsound};
use crate::store::reads;
use crate::store::settle::Asked;
use crate::store::{Outcome, StoreError, Unit, Write};
use remeet_protocol::Token;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a transaction is done again after a deadlock or a serialisation failure.
const CONTENDED_MAX: u32 = 5;
/// How often a batch is tried after its losers have been taken out, before it is halved: more than once only if
/// somebody else writes the same legs at the same time.
const MISFITS_MAX: u32 = 3;
/// Time-outs in a row after which a call gives up: by then a batch of 2,000 has shrunk to 31 units, so what is slow is
/// not the batch.
const SLOW_MAX: u32 = 6;
const DOING: &str = "writing units";

/// Units, by their place, that are written in one transaction.
struct Batch {
    places: Vec<usize>,
    misfits: u32,
}

impl PostgresStore {
    pub(super) async fn write_units(&self, token: Token, units: &[Unit]) -> Result<Vec<Outcome>, StoreError> {
        let deadline = Instant::now() + self.sessions.options().call_deadline;
        let mut outcomes: Vec<Outcome> = units.iter().map(applied).collect();
        let mut sound = Vec::with_capacity(units.len());
        for (at, unit) in units.iter().enumerate() {
            if let Some(reason) = unsound(unit, token) {
                tracing::error!(leg = ?unit.leg(), reason, "a unit cannot be written and is refused");
                outcomes[at] = Outcome::Lost { version: 0 };
            } else {
                sound.push(at);
            }
        }
        let mut queue = self.batches(units, sound);
        let mut committed = false;
        let mut slow = 0;
        // Part of the units stands: nobody may conclude from a failure that none does.
        let partly = |committed: bool, error: StoreError| match error {
            StoreError::Unavailable { doing, reason } | StoreError::Broken { doing, reason } if committed => {
                StoreError::Unknown { doing, reason }
            }
            error => error,
        };
        if queue.is_empty() {
            self.attempt(token, Vec::new()).await.map_err(|fault| fault.told(DOING, token))?;
        }
        while let Some(batch) = queue.pop_front() {
            if Instant::now() >= deadline {
                let span = self.sessions.options().call_deadline;
                let reason = format!("not all is written after {span:?}");
                return Err(partly(committed, StoreError::Unavailable { doing: DOING, reason }));
            }
            let these: Vec<&Unit> = batch.places.iter().map(|at| &units[*at]).collect();
            let fault = match self.attempt(token, compile(&these)).await {
                Ok(()) => {
                    committed |= !these.is_empty();
                    slow = 0;
                    continue;
                }
                Err(fault) => fault,
            };
            slow += u32::from(matches!(fault, Fault::Slow(_)));
            let isolate = match &fault {
                Fault::Slow(_) => these.len() > 1 && slow < SLOW_MAX,
                Fault::Refused(_) => these.len() > 1,
                _ => false,
            };
            match fault {
                Fault::Misfit if batch.misfits < MISFITS_MAX => {
                    let facts =
                        self.facts(&these).await.map_err(|fault| partly(committed, fault.told(DOING, token)))?;
                    self.take_losers_out(batch, &these, facts, &mut outcomes, &mut queue);
                }
                Fault::Misfit if these.len() > 1 => halve(batch, &mut queue),
                _ if isolate => halve(batch, &mut queue),
                Fault::Refused(reason) => {
                    tracing::error!(leg = ?these[0].leg(), reason, "the store refuses a unit");
                    let facts =
                        self.facts(&these).await.map_err(|fault| partly(committed, fault.told(DOING, token)))?;
                    let version = these[0].leg().and_then(|leg| facts.get(&leg)).map_or(0, |fact| fact.version);
                    outcomes[batch.places[0]] = Outcome::Lost { version };
                }
                fault => return Err(partly(committed, fault.told(DOING, token))),
            }
        }
        Ok(outcomes)
    }

    fn batches(&self, units: &[Unit], places: Vec<usize>) -> VecDeque<Batch> {
        let options = self.sessions.options();
        let mut queue: VecDeque<Batch> = VecDeque::new();
        let mut records = 0;
        for at in places {
            let more: usize = units[at]
                .writes
                .iter()
                .map(|write| if let Write::Content(content) = write { content.changes.len() } else { 1 })
                .sum();
            records += more;
            match queue.back_mut() {
                Some(batch) if batch.places.len() < options.batch_units && records <= options.batch_records => {
                    batch.places.push(at);
                }
                _ => {
                    records = more;
                    queue.push_back(Batch { places: vec![at], misfits: 0 });
                }
            }
        }
        queue
    }

    /// One transaction, done again where that helps.
    async fn attempt(&self, token: Token, steps: Vec<Step>) -> Result<(), Fault> {
        let steps = Arc::new(steps);
        let mut contended = 0;
        // Every pooled connection may hold the stale plan once; a discarded one never does again.
        let mut stale = self.sessions.options().write_connections.max(1);
        loop {
            let steps = Arc::clone(&steps);
            let run = self.sessions.transaction(Kind::Write, move |session| Box::pin(carry_out(session, token, steps)));
            match run.await {
                Err(Fault::Contended(_)) if contended < CONTENDED_MAX => {
                    contended += 1;
                    sleep(Duration::from_millis(5) * contended).await;
                }
                Err(Fault::StalePlan(_)) if stale > 0 => stale -= 1,
                done => return done,
            }
        }
    }

    async fn facts(&self, units: &[&Unit]) -> Result<Facts, Fault> {
        let asked = Asked::of(units.iter().copied());
        self.sessions
            .transaction(Kind::Read, move |session| {
                Box::pin(async move { reads::facts(session.connection(), &asked).await })
            })
            .await
    }

    /// The units that lose against the rows get their outcomes; the others are written again without them.
    fn take_losers_out(
        &self,
        batch: Batch,
        units: &[&Unit],
        mut facts: Facts,
        outcomes: &mut [Outcome],
        queue: &mut VecDeque<Batch>,
    ) {
        let mut rest = Vec::with_capacity(batch.places.len());
        for (place, loses) in batch.places.iter().zip(predict(units, &mut facts)) {
            match loses {
                Some(outcome) => outcomes[*place] = outcome,
                None => rest.push(*place),
            }
        }
        // An empty batch still checks the term: a loser under a term that is over is fenced, not lost.
        queue.push_front(Batch { places: rest, misfits: batch.misfits + 1 });
    }
}

fn halve(mut batch: Batch, queue: &mut VecDeque<Batch>) {
    let second = batch.places.split_off(batch.places.len() / 2);
    queue.push_front(Batch { places: second, misfits: 0 });
    queue.push_front(Batch { places: batch.places, misfits: 0 });
}

/// Carries the statements out. With none it only checks the term.
async fn carry_out(session: &mut Session, token: Token, steps: Arc<Vec<Step>>) -> Result<(), Fault> {
    if steps.is_empty() {
        let only = Step { doing: "checking the term", sql: fenced("", "0::int8"), columns: Vec::new(), expected: None };
        return step(session, token, &only).await.map(drop);
    }
    for each in steps.iter() {
        let count = step(session, token, each).await?;
        if each.expected.is_some_and(|expected| i64::try_from(expected) != Ok(count)) {
            return Err(Fault::Misfit);
        }
    }
    Ok(())
}

/// Carries one fenced statement out and answers its count.
pub(super) async fn step(session: &mut Session, token: Token, step: &Step) -> Result<i64, Fault> {
    let broken = |error: sqlx::error::BoxDynError| Fault::Broken(format!("{}: {error}", step.doing));
    let mut arguments = PgArguments::default();
    arguments.add(token.epoch.0.cast_signed()).map_err(broken)?;
    arguments.add(token.holder.0).map_err(broken)?;
    step.columns.iter().try_for_each(|columns| columns.bind(&mut arguments)).map_err(broken)?;
    let (term, count, backend): (i64, i64, i32) = sqlx::query_as_with(AssertSqlSafe(step.sql.clone()), arguments)
        .fetch_one(session.connection())
        .await
        .map_err(|error| fault(&error))?;
    session.backend = Some(backend);
    if term == 0 { Err(Fault::Fenced) } else { Ok(count) }
}
