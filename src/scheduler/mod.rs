//! The driver: feeds the pure cores and carries out what they answer. It decides nothing.
//!
//! ```text
//!            packets                Heard                 Input
//!  links  <----------> sessions  ----------->  Core  <------------  writers, readers, cacher
//!                          ^                     |                       ^
//!                          +------ Ask ----------+------- Persist, Read, Cache
//!                                                |
//!  clients <--- Answer, Publish -----------------+
//! ```
//!
//! One task owns the core and every session ([`driver`](self)); it only moves values. Sockets, the store
//! and the cache are worked by tasks of their own:
//!
//! - `writer` – groups units into batches, a few lanes; repeats until an outcome is certain.
//! - `reader` – bulk reads; counts stored rows.
//! - `cacher` – cache tasks in order, in pipelines.
//! - [`Handle`] – what everything above may ask of the scheduler.

mod cacher;
mod clock;
mod driver;
mod handle;
mod operator;
mod peer;
mod reader;
mod status;
mod term;
mod writer;

pub use clock::Clock;
pub use handle::{Gone, Handle, Presence, ReconcileError, Reconciled};

use crate::config::{CacheAddress, Config, StoreAddress};
use crate::ops::Seam;
use crate::{cms, store};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the scheduler ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store's or the cache's URL cannot be used.
    #[error("{0}")]
    Open(String),
    /// The clients' port cannot be opened.
    #[error("cannot listen for meeting clients on {address}: {reason}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// Another scheduler has begun a newer term: this process commands no more.
    #[error("{0}")]
    Fenced(String),
}

/// Runs the scheduler until `stop`.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, seam: Seam, stop: CancellationToken) -> Result<(), RunError> {
    let clock = Clock::start();
    let store = open_store(&config)?;
    let cache = open_cache(&config)?;
    let listener = cms::listen(&config)
        .await
        .map_err(|reason| RunError::Listen { address: config.clients.listen, reason: reason.to_string() })?;
    let config = Arc::new(config);
    let (driver, handle) = driver::Driver::new(
        Arc::clone(&config),
        clock,
        Arc::clone(&store),
        cache,
        seam.service.clone(),
        seam.heartbeat.clone(),
        (listener.address(), listener.counters()),
    );
    let ended = CancellationToken::new();
    let doors = tokio_util::task::TaskTracker::new();
    doors.spawn(listener.serve(Arc::clone(&config), handle.clone(), ended.clone()));
    doors.spawn(seam.operator.serve(Arc::new(handle), ended.clone()));
    doors.close();
    // Configuration is valid and every port answers; recovery goes on from here, told by STATUS=.
    seam.service.ready();
    let result = driver.run(stop).await;
    seam.service.stopping();
    ended.cancel();
    doors.wait().await;
    store.close().await;
    result
}

fn open_store(config: &Config) -> Result<Arc<dyn store::Store>, RunError> {
    let url = match config.store_address() {
        Some(StoreAddress::Postgres(url)) => url.expose().to_owned(),
        Some(StoreAddress::Sqlite(path)) => format!("sqlite:{}", path.display()),
        None => return Err(RunError::Open("store.url names no store: write sqlite:PATH or postgres://…".to_owned())),
    };
    let options = store::StoreOptions {
        read_deadline: config.store.read_deadline,
        write_deadline: config.store.write_deadline,
        // Bulk writes saturate two cores with two connections; the larger half reads.
        write_connections: (config.store.connections_max / 2).max(1),
        read_connections: config.store.connections_max.div_ceil(2).max(1),
        ..store::StoreOptions::default()
    };
    store::open(&url, &options).map_err(|error| RunError::Open(error.to_string()))
}

fn open_cache(config: &Config) -> Result<Arc<dyn store::Cache>, RunError> {
    let limits = store::CacheLimits {
        deadline: config.cache.deadline,
        legs_max: usize::try_from(config.cache.legs_max).unwrap_or(usize::MAX),
    };
    let url = match config.cache_address() {
        Some(CacheAddress::Redis(url)) => url.expose().to_owned(),
        Some(CacheAddress::Memory) => "memory:".to_owned(),
        None => return Err(RunError::Open("cache.url names no cache: write memory: or redis://…".to_owned())),
    };
    store::open_cache_with(&url, limits).map_err(|error| RunError::Open(error.to_string()))
}
