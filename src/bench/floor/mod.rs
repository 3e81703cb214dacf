//! The floor: what this machine needs to read, send, write and cache the same as a recovery, by the plainest means, all
//! at once.
//!
//! - [`store`](self::store) – every leg's row and key read; every leg's row written once, as many rows of content as the
//!   scheduler wrote, and the marks of the legs that changed: bulk statements on the project's own tables, two writing
//!   connections, no fence, no compare, nothing decided.
//! - [`wire`](self::wire) – the inventories, claims, results and changes through sockets and the codec; nothing is proven.
//! - [`cache`](self::cache) – the stamps of every leg read, the content of the changed ones written, in pipelines.
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
}

impl Load {
    pub(super) fn new(population: &Population, changed: f64, changes: u64) -> Self {
        let legs = population.legs.clone();
        let all: usize = legs.iter().map(|(_, legs)| legs.len()).sum();
        // A fraction of a number of legs, from 0 to that number.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let changed = (changed * all as f64).round() as usize;
        Self { legs, changed, changes: usize::try_from(changes).unwrap_or(usize::MAX) }
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
