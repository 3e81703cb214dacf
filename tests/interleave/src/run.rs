//! How orders are chosen.

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Orders of each kind that are drawn, unless `REMEET_INTERLEAVE` says another number.
const DRAWN: usize = 10_000;
/// Seed of the draws, unless `SHUTTLE_RANDOM_SEED` says another.
const SEED: u64 = 2026;
/// Changes of priority: a fault that needs more than three is rare (Burckhardt and others, "A randomized scheduler with
/// probabilistic guarantees of finding bugs", 2010).
const CHANGES: usize = 3;

/// Orders to draw of each kind.
#[must_use]
pub fn drawn() -> usize {
    std::env::var("REMEET_INTERLEAVE").ok().map_or(DRAWN, |text| text.parse().expect("REMEET_INTERLEAVE is a number"))
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    config
}

fn orders(scheduler: impl Scheduler + 'static, act: impl Fn() + Send + Sync + 'static) -> usize {
    Runner::new(scheduler, config()).run(act)
}

/// Runs `act` in every order there is; for few steps.
///
/// # Panics
/// An order fails: it is printed, for `shuttle::replay`.
pub fn in_every_order(act: impl Fn() + Send + Sync + 'static) {
    let count = orders(DfsScheduler::new(None, false), act);
    println!("{count} orders: all there are");
}

/// Runs `act` in orders drawn at random, and in orders by priorities that change a few times.
///
/// # Panics
/// An order fails: it is printed, for `shuttle::replay`.
pub fn in_drawn_orders(act: impl Fn() + Send + Sync + Clone + 'static) {
    println!("seed {SEED} (SHUTTLE_RANDOM_SEED for another)");
    let random = orders(RandomScheduler::new_from_seed(SEED, drawn()), act.clone());
    let by_priority = orders(PctScheduler::new_from_seed(SEED, CHANGES, drawn()), act);
    println!("{random} orders at random, {by_priority} by priority");
}

/// Whether an order fails; so many are drawn as [`in_drawn_orders`] does.
#[must_use]
pub fn fails_in_some_order(act: impl Fn() + Send + Sync + Clone + 'static) -> bool {
    catch_unwind(AssertUnwindSafe(|| in_drawn_orders(act))).is_err()
}
