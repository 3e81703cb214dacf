//! The floor: what this machine needs to read, send, write and cache the same as a recovery, by the plainest means, all
//! at once.
//!
//! - [`store`](self::store) – every leg's row and key read; every leg's row written once, as many rows of content as
//!   changed, and the marks of the legs that changed: bulk statements on the project's own tables, two writing
//!   connections, no fence, no compare, nothing decided. What is read back to be counted, or to fill a cache that was
//!   wiped, is not read here.
//! - [`wire`](self::wire) – the inventories, claims, results and changes through sockets and the codec; nothing is proven.
//! - [`cache`](self::cache) – the stamps of every leg read, the content of the changed ones (of all, if it was wiped)
//!   written, in pipelines.
//!
//! A recovery cannot do all of it at once: it asks before it looks up, and looks up before it claims.

mod cache;
mod store;
mod wire;

use super::fill::Population;
use crate::stage::StageError;
use crate::stage::backing::Backing;
use remeet_protocol::{LegId, ServerId};
use std::time::Duration;
use tokio::time::Instant;

/// What was moved.
pub(super) struct Load {
    /// The legs that were recovered, by server.
    pub legs: Vec<(ServerId, Vec<LegId>)>,
    /// Legs whose content changed.
    pub changed: usize,
    /// Records that changed.
    pub changes: usize,
    /// Legs whose content is written to the cache, and records of each: those that changed, or all after a wipe.
    pub cached: (usize, usize),
}

impl Load {
    /// `hung`: the last servers that did not answer. `whole`: records of a leg, if the cache was wiped.
    pub(super) fn new(population: &Population, hung: u32, changed: f64, changes: u64, whole: Option<usize>) -> Self {
        let answering = population.legs.len().saturating_sub(hung as usize);
        let legs = population.legs[..answering].to_vec();
        let all: usize = legs.iter().map(|(_, legs)| legs.len()).sum();
        // A fraction of a number of legs, from 0 to that number.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let changed = (changed * all as f64).round() as usize;
        let changes = usize::try_from(changes).unwrap_or(usize::MAX);
        let cached =
            whole.map_or((changed, changes.checked_div(changed).unwrap_or_default()), |records| (all, records));
        Self { legs, changed, changes, cached }
    }

    fn all(&self) -> Vec<LegId> {
        self.legs.iter().flat_map(|(_, legs)| legs.iter().copied()).collect()
    }
}

/// Moves it. Answers how long that took; what goes before (connections, names of rows) is not counted.
pub(super) async fn floor(load: &Load, backing: &Backing) -> Result<Duration, StageError> {
    let store = store::Plain::open(load, &backing.database).await?;
    let cache = cache::Plain::open(load, backing).await?;
    let wire = wire::Plain::open(load).await?;
    let begun = Instant::now();
    let (store, cache, wire) = tokio::join!(
        tokio::spawn(store.work()),
        tokio::spawn(async move {
            match cache {
                Some(cache) => cache.work().await,
                None => Ok(()),
            }
        }),
        tokio::spawn(wire.work())
    );
    for done in [store, cache, wire] {
        done.map_err(StageError::new)??;
    }
    Ok(begun.elapsed())
}
