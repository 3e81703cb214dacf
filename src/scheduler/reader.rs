//! Bulk reads for the core.

use super::helper::Helpers;
use crate::model::LegContent;
use crate::recovery::{Input, Read, ReadId, ReadResult, StoredDigest};
use crate::store::{Cache, Store, StoreError};
use remeet_protocol::LegId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Reads at a time: more would only queue in the pool.
const READS_MAX: usize = 4;
/// Attempts of a read while the store is down, with pauses of half a second: the core then plans anew.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);
/// Names of cached legs that are looked at: ten times the largest network foreseen.
const NAMES_MAX: usize = 1_000_000;
/// Legs whose content is held in memory at a time while it is counted: some 10 MB.
const CONTENTS: usize = 1_000;

/// What a read tells the driver.
#[derive(Debug)]
pub(super) enum Told {
    /// For the core; and whether it shows that the store answers. Its place is free once the driver has taken it: results
    /// of large look-ups must not pile up before a driver that is slower than the store.
    Done(Input, bool, Option<OwnedSemaphorePermit>),
    /// The store did not answer an attempt; another one follows, or the result.
    StoreFailed(String),
}

/// Carries out reads.
#[derive(Clone)]
pub(super) struct Readers {
    store: Arc<dyn Store>,
    cache: Arc<dyn Cache>,
    results: mpsc::UnboundedSender<Told>,
    helpers: Helpers,
    places: Arc<Semaphore>,
    records: Arc<AtomicU64>,
}

impl Readers {
    /// The core has a bounded number of reads open (a few a server), and so has the channel.
    pub(super) fn new(
        store: Arc<dyn Store>,
        cache: Arc<dyn Cache>,
        helpers: Helpers,
    ) -> (Self, mpsc::UnboundedReceiver<Told>) {
        let (results, told) = mpsc::unbounded_channel();
        (
            Self {
                store,
                cache,
                results,
                helpers,
                places: Arc::new(Semaphore::new(READS_MAX)),
                records: Arc::default(),
            },
            told,
        )
    }

    /// Records of legs read, to be counted.
    pub(super) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Begins a read; its result comes as an input.
    pub(super) fn begin(&self, id: ReadId, read: Read) {
        let this = self.clone();
        self.helpers.spawn("reading from the store or the cache", async move {
            // The semaphore is never closed.
            let place = Arc::clone(&this.places).acquire_owned().await.ok();
            let result = this.repeat(&read).await;
            let answers =
                result.is_ok() && !matches!(read, Read::CachedKeys(_) | Read::Stamps(_) | Read::CachedNames(_));
            let _ = this.results.send(Told::Done(Input::Read(id, result), answers, place));
        });
    }

    async fn repeat(&self, read: &Read) -> Result<ReadResult, String> {
        let mut attempt = 1;
        loop {
            match self.once(read).await {
                Ok(result) => return Ok(result),
                // A cache that fails is a miss, at once.
                Err(Failed::Cache(reason)) => return Err(reason),
                Err(Failed::Store(error)) => {
                    let _ = self.results.send(Told::StoreFailed(error.to_string()));
                    if attempt >= ATTEMPTS || !matches!(error, StoreError::Unavailable { .. }) {
                        return Err(error.to_string());
                    }
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn once(&self, read: &Read) -> Result<ReadResult, Failed> {
        Ok(match read {
            Read::LookUp { server, legs } => ReadResult::LookUp(self.store.look_up(*server, legs).await?),
            Read::Legs(legs) => ReadResult::LookUp(self.store.legs(legs).await?),
            Read::Digests(legs) => ReadResult::Digests(self.digests(legs).await?),
            Read::Roster { meeting, terminal } => ReadResult::Roster(self.store.roster(*meeting, terminal).await?),
            Read::Instance(instance) => ReadResult::Instance(self.store.instance(*instance).await?),
            Read::CachedKeys(legs) => {
                ReadResult::CachedKeys(self.cache.keys(legs).await.map_err(|error| Failed::Cache(error.to_string()))?)
            }
            Read::Stamps(legs) => {
                ReadResult::Stamps(self.cache.stamps(legs).await.map_err(|error| Failed::Cache(error.to_string()))?)
            }
            Read::CachedNames(domain) => {
                let names = self.cache.names(*domain, NAMES_MAX).await;
                ReadResult::CachedNames(names.map_err(|error| Failed::Cache(error.to_string()))?)
            }
        })
    }

    async fn digests(&self, legs: &[LegId]) -> Result<Vec<StoredDigest>, StoreError> {
        let mut digests = Vec::with_capacity(legs.len());
        for legs in legs.chunks(CONTENTS) {
            let contents = self.store.contents(legs).await?;
            let records: usize = contents.iter().map(|content| content.changes.len()).sum();
            self.records.fetch_add(records as u64, Ordering::Relaxed);
            digests.extend(contents.iter().map(|content: &LegContent| StoredDigest::count(content)));
        }
        Ok(digests)
    }
}

enum Failed {
    Store(StoreError),
    Cache(String),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Store(error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::store::memory::MemoryCache;
    use crate::store::{StoreOptions, open};

    #[tokio::test]
    async fn rule_17_results_do_not_pile_up_before_a_driver_that_does_not_take_them() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("reads.db").display());
        let store: Arc<dyn Store> = open(&url, &StoreOptions::default()).unwrap();
        store.migrate().await.unwrap();
        let (readers, mut told) = Readers::new(store, Arc::new(MemoryCache::default()), Helpers::new().0);
        for id in 0..3 * READS_MAX as u64 {
            readers.begin(ReadId(id), Read::Legs(Vec::new()));
        }
        while told.len() < READS_MAX {
            tokio::task::yield_now().await;
        }
        // Each that waits to be taken holds one of the places.
        assert_eq!((told.len(), readers.places.available_permits()), (READS_MAX, 0));
        for _ in 0..3 * READS_MAX {
            assert!(matches!(told.recv().await, Some(Told::Done(Input::Read(_, Ok(_)), true, Some(_)))));
        }
        assert_eq!(readers.places.available_permits(), READS_MAX);
    }
}
