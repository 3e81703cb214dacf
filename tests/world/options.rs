//! What a world is made of, and its seeded dice.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet::{recovery, session};
use std::time::Duration;

/// What becomes of commits whose sender is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeadCommits {
    /// One in two stands.
    Drawn,
    /// All stand.
    Stand,
    /// None does.
    Lost,
    /// Those of every other lane: of several on their way some stand.
    EveryOther,
}

/// How a world is to be.
#[derive(Clone)]
pub(super) struct Options {
    /// Servers, numbered from 1.
    pub(super) servers: u32,
    /// Schedulers, each on a node of its own: one, or an active and a standby.
    pub(super) nodes: usize,
    /// How long a lease lasts.
    pub(super) lease: Duration,
    /// Model clients.
    pub(super) clients: u64,
    /// Packets that are lost, a fraction; a link with losses, doubles or disorder is of datagram style.
    pub(super) loss: f64,
    /// Packets that come twice.
    pub(super) doubles: f64,
    /// Packets overtake one another.
    pub(super) disorder: bool,
    /// The longest delay of a packet, in each direction.
    pub(super) delay: Duration,
    /// The longest that the store or the cache takes, for each half of a call.
    pub(super) store_delay: Duration,
    /// What takes up to two leases instead, a fraction: packets, commits of unknown outcome, questions about the lease.
    pub(super) late: f64,
    /// Calls to the cache of which the outcome is unknown, a fraction.
    pub(super) cache_unsure: f64,
    /// The longest that the answer to a read takes.
    pub(super) read_delay: Duration,
    /// The longest that a scheduler takes in what comes before it does anything. Zero: each thing is followed at once.
    pub(super) turn: Duration,
    /// Commits whose outcome is unknown, a fraction (rule 12).
    pub(super) unknown_commits: f64,
    /// Which commits stand that were on their way when their sender died.
    pub(super) dead_commits: DeadCommits,
    /// The servers' bound of unsent events.
    pub(super) event_queue: usize,
    /// Removals that the servers keep a leg.
    pub(super) removals: usize,
    pub(super) recovery: recovery::Settings,
    pub(super) session: session::Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: 2,
            nodes: 1,
            lease: Duration::from_secs(6),
            clients: 1,
            loss: 0.0,
            doubles: 0.0,
            disorder: false,
            delay: Duration::from_millis(4),
            store_delay: Duration::from_millis(3),
            read_delay: Duration::from_millis(3),
            late: 0.0,
            cache_unsure: 0.0,
            turn: Duration::ZERO,
            unknown_commits: 0.0,
            dead_commits: DeadCommits::Drawn,
            event_queue: 1_000,
            removals: 1_000,
            recovery: recovery::Settings::default(),
            session: session::Settings::default(),
        }
    }
}

impl Options {
    /// How long something takes that takes `longest` at most as a rule.
    pub(super) fn pause(&self, dice: &mut Dice, longest: Duration) -> Duration {
        let late = dice.chance(self.late);
        dice.pause(if late { self.lease * 2 } else { longest })
    }
}

/// The seed of a test: `REMEET_SIM_SEED` if it is set. Printed, so that a failure can be repeated.
pub(super) fn seed(default: u64) -> u64 {
    let seed = std::env::var("REMEET_SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    println!("seed {seed}: REMEET_SIM_SEED={seed} repeats it");
    seed
}

/// A random source of one part of the world: what happens in one part does not move the dice of another.
#[derive(Clone)]
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64, part: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(part)))
    }

    /// Below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound.max(1))
    }

    pub(super) fn chance(&mut self, fraction: f64) -> bool {
        fraction > 0.0 && self.0.random_bool(fraction.min(1.0))
    }

    /// Up to `longest`, never nothing.
    pub(super) fn pause(&mut self, longest: Duration) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX).max(2);
        Duration::from_micros(self.0.random_range(1..micros))
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        rand::RngCore::fill_bytes(&mut self.0, &mut bytes);
        bytes
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)])
    }
}
