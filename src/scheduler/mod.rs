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
//! - `term` – questions about the lease.
//! - `helper` – starts their tasks; one that panics ends the process.
//! - [`Handle`] – what everything above may ask of the scheduler.

mod cacher;
mod clock;
mod driver;
mod handle;
mod helper;
mod operator;
mod peer;
mod peers;
mod presence;
mod present;
mod reader;
mod status;
mod term;
#[cfg(test)]
mod tests;
mod writer;

pub use clock::Clock;
pub use handle::{Gone, Handle, ReconcileError, Reconciled};
pub use presence::Presence;

use crate::config::{CacheAddress, Config, StoreAddress};
use crate::ops::Seam;
use crate::recovery::lease::{Lease, LeaseTiming};
use crate::{cms, store};
use driver::Ended;
use std::sync::Arc;
use std::time::Duration;
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
    /// A helper task of the driver has panicked.
    #[error(
        "a task of the scheduler has panicked, {doing}: its meetings go on and are taken over at the next start; please \
         report what the log says above"
    )]
    Broken {
        /// What it did.
        doing: &'static str,
    },
}

/// Runs the scheduler until `stop`: one life after the other, each a standby first, then the holder of a term.
/// `directory` is the state directory's own name (see [`crate::ops::lock::NodeLock::id`]).
///
/// # Errors
/// See [`RunError`].
pub async fn run(mut config: Config, directory: &str, seam: Seam, stop: CancellationToken) -> Result<(), RunError> {
    let clock = Clock::start();
    let store = open_store(&config)?;
    let cache = open_cache(&config)?;
    let mut door = cms::listen(&config)
        .await
        .map_err(|reason| RunError::Listen { address: config.clients.listen, reason: reason.to_string() })?;
    config.scheduler.node = format!("{}#{directory}", config.scheduler.node);
    let config = Arc::new(config);
    let Seam { service, heartbeat, operator } = seam;
    let mut lease = Lease::new(LeaseTiming::of(config.scheduler.lease, spread()));
    let ended = CancellationToken::new();
    let desk = operator::Desk::default();
    let operators = tokio::spawn(operator.serve(Arc::new(desk.clone()), ended.clone()));
    // Configuration is valid and every port answers; what follows is told by STATUS=.
    service.ready();
    let result = loop {
        let (mut driver, handle) = driver::Driver::new(driver::Parts {
            config: Arc::clone(&config),
            clock,
            store: Arc::clone(&store),
            cache: Arc::clone(&cache),
            service: service.clone(),
            heartbeat: heartbeat.clone(),
            clients: (door.address(), door.counters()),
            lease,
        });
        desk.set(handle.clone());
        let life = CancellationToken::new();
        let serving = async {
            let end = driver.run(stop.clone()).await;
            life.cancel();
            end
        };
        let (end, ()) = tokio::join!(serving, door.serve(Arc::clone(&config), handle, life.clone()));
        lease = driver.into_lease();
        let not_before = match end {
            Ended::Stopped => break Ok(()),
            Ended::Broken(doing) => break Err(RunError::Broken { doing }),
            // Its own node would be granted the term at once: the others are left a lease's time to take it.
            Ended::SteppedDown => clock.now() + config.scheduler.lease,
            Ended::Over(end) => {
                tracing::error!(?end, "this scheduler commands no more: it goes on as a standby");
                clock.now()
            }
        };
        lease.live_again(not_before);
    };
    service.stopping();
    ended.cancel();
    if let Err(error) = operators.await {
        tracing::error!("the operator's socket ended badly: {error}");
    }
    door.close().await;
    store.close().await;
    result
}

/// Standbys ask at different moments.
fn spread() -> Duration {
    Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 4)
}

/// Opens the store that the configuration names. Nothing is connected to yet.
///
/// # Errors
/// Its URL cannot be used.
pub fn open_store(config: &Config) -> Result<Arc<dyn store::Store>, RunError> {
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
