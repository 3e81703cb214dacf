//! Carries out the runs of the queue to the cache. What is in them, and what follows, is
//! [`crate::recovery::cache_queue`]'s.

use super::helper::Helpers;
use crate::model::{LegContent, Moment, StoredState};
use crate::recovery::cache_queue::CacheQueue;
use crate::recovery::{CacheTask, Input};
use crate::store::{Cache, CacheError, CacheOutcome, CacheWrite, CachedHead, Store};
use remeet_protocol::{DomainId, Epoch, LegId, MeetingId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Legs that a refill holds in memory at a time: some 10 MB.
const REFILL: usize = 500;

/// What came of a run of tasks.
#[derive(Debug)]
pub(super) struct Done {
    /// For the core.
    pub inputs: Vec<Input>,
    /// Whether the cache answered; `None` if it was not asked.
    pub health: Option<Result<(), String>>,
    /// Ended legs that were to be forgotten and may be cached still.
    pub unforgotten: Vec<(DomainId, LegId)>,
}

/// The queue to the cache, and who carries its runs out.
pub(super) struct Cacher {
    store: Arc<dyn Store>,
    cache: Arc<dyn Cache>,
    done: mpsc::UnboundedSender<Done>,
    helpers: Helpers,
    queue: CacheQueue,
}

impl Cacher {
    /// One message is under way at a time.
    pub(super) fn new(
        store: Arc<dyn Store>,
        cache: Arc<dyn Cache>,
        helpers: Helpers,
    ) -> (Self, mpsc::UnboundedReceiver<Done>) {
        let (done, results) = mpsc::unbounded_channel();
        (Self { store, cache, done, helpers, queue: CacheQueue::default() }, results)
    }

    /// See [`CacheQueue::push`].
    pub(super) fn push(&mut self, now: Moment, task: CacheTask) -> Option<Input> {
        self.queue.push(now, task)
    }

    /// See [`CacheQueue::waiting`].
    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// The run is over; these legs are cached still.
    pub(super) fn ended(&mut self, now: Moment, unforgotten: Vec<(DomainId, LegId)>) {
        self.queue.end(now, unforgotten);
    }

    /// See [`CacheQueue::answers_again`].
    pub(super) fn answers_again(&mut self, now: Moment) {
        self.queue.answers_again(now);
    }

    /// Asks the cache for what it owes or for something small, to see whether it answers again.
    pub(super) fn probe(&mut self, epoch: Epoch) {
        match self.queue.probe() {
            Some(tasks) if tasks.is_empty() => self.ask_for_nothing(),
            Some(tasks) => self.run(epoch, tasks),
            None => {}
        }
    }

    fn ask_for_nothing(&self) {
        let (cache, done) = (Arc::clone(&self.cache), self.done.clone());
        self.helpers.spawn("looking whether the cache answers", async move {
            let nothing = LegId { meeting: MeetingId::default(), leg: 0 };
            let health = cache.stamps(&[(DomainId(0), nothing)]).await.map(|_| ()).map_err(|error| error.to_string());
            let _ = done.send(Done { inputs: Vec::new(), health: Some(health), unforgotten: Vec::new() });
        });
    }

    /// Begins the next run, if the last one is over.
    pub(super) fn begin(&mut self, now: Moment, epoch: Epoch) {
        if let Some(tasks) = self.queue.begin(now) {
            self.run(epoch, tasks);
        }
    }

    fn run(&self, epoch: Epoch, tasks: Vec<CacheTask>) {
        let worker = Worker { store: Arc::clone(&self.store), cache: Arc::clone(&self.cache), epoch };
        let done = self.done.clone();
        self.helpers.spawn("working for the cache", async move {
            let _ = done.send(worker.carry_out(tasks).await);
        });
    }
}

struct Worker {
    store: Arc<dyn Store>,
    cache: Arc<dyn Cache>,
    epoch: Epoch,
}

impl Worker {
    async fn carry_out(&self, tasks: Vec<CacheTask>) -> Done {
        let (mut writes, mut heads, mut keys, mut mirror) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut forget: Vec<(DomainId, LegId)> = Vec::new();
        let mut ended: Vec<(DomainId, LegId)> = Vec::new();
        for task in tasks {
            match task {
                CacheTask::Write(write) => writes.push(*write),
                CacheTask::Refill(head) => heads.push(head),
                CacheTask::PutKey(key) => keys.push(*key),
                CacheTask::MirrorKey(leg) => mirror.push(leg),
                CacheTask::Forget(domain, leg) => forget.push((domain, leg)),
                CacheTask::ForgetEnded(domain, leg) => ended.push((domain, leg)),
            }
        }
        let mut done = Done { inputs: Vec::new(), health: None, unforgotten: Vec::new() };
        if !writes.is_empty() {
            let legs = writes.iter().map(|write| write.head.leg).collect();
            let result = self.cache.write(&writes).await;
            done.note(&result);
            done.inputs.push(Input::Cached(legs, result.map_err(|error| error.to_string())));
        }
        for heads in heads.chunks(REFILL) {
            let legs = heads.iter().map(|head| head.leg).collect();
            let result = self.refill(heads, &mut done).await;
            done.inputs.push(Input::Cached(legs, result));
        }
        if !mirror.is_empty() {
            match self.store.legs(&mirror).await {
                Ok(found) => keys.extend(found.found.into_iter().filter_map(|found| found.key)),
                Err(error) => {
                    tracing::warn!("keys to mirror: {error}");
                    done.inputs.extend(mirror.into_iter().map(Input::Uncached));
                }
            }
        }
        if !keys.is_empty() {
            let result = self.cache.put_keys(self.epoch, &keys).await;
            done.note(&result);
        }
        if !ended.is_empty() {
            forget.extend(self.ended_of(ended).await);
        }
        if !forget.is_empty() {
            let result = self.cache.forget(self.epoch, &forget).await;
            done.note(&result);
            if result.is_err() {
                done.unforgotten = forget;
            }
        }
        done
    }

    /// Those of `legs` that the store has as ended. What it cannot say now, the next sweep asks again.
    async fn ended_of(&self, legs: Vec<(DomainId, LegId)>) -> Vec<(DomainId, LegId)> {
        let named: Vec<LegId> = legs.iter().map(|(_, leg)| *leg).collect();
        match self.store.legs(&named).await {
            Ok(found) => {
                let rows = found.found.iter().map(|found| &found.row);
                let ended: BTreeSet<LegId> =
                    rows.filter(|row| row.state == StoredState::Ended).map(|row| row.leg).collect();
                legs.into_iter().filter(|(_, leg)| ended.contains(leg)).collect()
            }
            Err(error) => {
                tracing::warn!("cached legs that may have ended: {error}");
                Vec::new()
            }
        }
    }

    /// Key and content of legs, from the store, whole.
    async fn refill(&self, heads: &[CachedHead], done: &mut Done) -> Result<Vec<CacheOutcome>, String> {
        let legs: Vec<LegId> = heads.iter().map(|head| head.leg).collect();
        let found = self.store.legs(&legs).await.map_err(|error| error.to_string())?;
        let keys: Vec<_> = found.found.into_iter().filter_map(|found| found.key).collect();
        let mut contents: BTreeMap<LegId, LegContent> = self
            .store
            .contents(&legs)
            .await
            .map_err(|error| error.to_string())?
            .into_iter()
            .map(|content| (content.leg, content))
            .collect();
        let result = self.cache.put_keys(self.epoch, &keys).await;
        done.note(&result);
        result.map_err(|error| error.to_string())?;
        let mut places = Vec::new();
        let mut writes = Vec::new();
        for (place, head) in heads.iter().enumerate() {
            // Unless it is of an earlier life of the leg, whose later one is not stored yet.
            let content = contents.remove(&head.leg);
            if let Some(content) = content.filter(|content| content.is_of(head.boot, head.handle)) {
                places.push(place);
                writes.push(CacheWrite {
                    head: head.clone(),
                    base: None,
                    mark: content.mark,
                    changes: content.changes,
                });
            }
        }
        let result = self.cache.write(&writes).await;
        done.note(&result);
        let outcomes = result.map_err(|error| error.to_string())?;
        // A leg that is not stored (any more, or there yet) has nothing to cache: what stores it refills again.
        let mut all = vec![CacheOutcome::Lost; heads.len()];
        for (place, outcome) in places.into_iter().zip(outcomes) {
            all[place] = outcome;
        }
        Ok(all)
    }
}

impl Done {
    fn note<T>(&mut self, result: &Result<T, CacheError>) {
        self.health = Some(match result {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        });
    }
}
