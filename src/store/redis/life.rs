//! When the connection to Redis is given up, and when it is rested from: shared by every call under way.

use crate::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bounds of [`Lives`].
#[derive(Debug, Clone, Copy)]
pub(super) struct LifeLimits {
    /// Consecutive time-outs after which a connection is replaced.
    pub timeouts: u32,
    /// How long calls fail at once after a second replacement in a row, doubled with each further one up to
    /// sixteen times.
    pub rest: Duration,
}

/// The present connection `M`, and what is known of it and those before.
#[derive(Debug)]
pub(super) struct Lives<M> {
    limits: LifeLimits,
    life: Mutex<Life<M>>,
}

#[derive(Debug)]
struct Life<M> {
    manager: Option<M>,
    /// Counts the managers: a time-out on an earlier one says nothing of this one.
    number: u64,
    timeouts: u32,
    /// Replacements since the last answer.
    replaced: u32,
    resting_until: Option<Instant>,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoLife<E> {
    /// So many fell silent in a row: none is asked for a while.
    Resting(u32),
    /// It could not be made.
    NotMade(E),
}

impl<M: Clone> Lives<M> {
    pub(super) fn new(limits: LifeLimits) -> Self {
        let life = Life { manager: None, number: 0, timeouts: 0, replaced: 0, resting_until: None };
        Self { limits, life: Mutex::new(life) }
    }

    /// The present connection with its number; `make` makes one if there is none.
    pub(super) fn get<E>(&self, now: Instant, make: impl FnOnce() -> Result<M, E>) -> Result<(M, u64), NoLife<E>> {
        let mut life = self.life();
        if life.resting_until.is_some_and(|until| until > now) {
            return Err(NoLife::Resting(life.replaced));
        }
        if let Some(manager) = &life.manager {
            return Ok((manager.clone(), life.number));
        }
        let manager = make().map_err(NoLife::NotMade)?;
        life.manager = Some(manager.clone());
        Ok((manager, life.number))
    }

    /// Connection `number` has answered. Whether that is news: those before were silent.
    pub(super) fn answered(&self, number: u64) -> bool {
        let mut life = self.life();
        if life.number != number {
            return false;
        }
        let news = life.replaced > 0;
        (life.timeouts, life.replaced, life.resting_until) = (0, 0, None);
        news
    }

    /// Connection `number` has not answered in time. Whether it was given up for that.
    pub(super) fn timed_out(&self, number: u64, now: Instant) -> bool {
        let mut life = self.life();
        if life.number != number {
            return false;
        }
        life.timeouts += 1;
        if life.timeouts < self.limits.timeouts {
            return false;
        }
        life.give_up();
        life.replaced = life.replaced.saturating_add(1);
        if let Some(doublings) = life.replaced.checked_sub(2) {
            life.resting_until = Some(now + self.limits.rest * (1 << doublings.min(4)));
        }
        true
    }

    /// Connection `number` is of no use.
    pub(super) fn give_up(&self, number: u64) {
        let mut life = self.life();
        if life.number == number {
            life.give_up();
        }
    }

    fn life(&self) -> MutexGuard<'_, Life<M>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Life<M> {
    /// The next call makes another one; this one closes when its last user is done.
    fn give_up(&mut self) {
        self.manager = None;
        self.number += 1;
        self.timeouts = 0;
    }
}
