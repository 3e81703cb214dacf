//! Cache tasks, in order and in pipelines. The cache never stops anything: a failure is told to the core,
//! which leaves the leg's cached status behind until the next comparison.

use super::helper::Helpers;
use crate::model::StoredState;
use crate::recovery::{CacheTask, Input};
use crate::store::{Cache, CacheError, CacheOutcome, CacheWrite, CachedHead, Store};
use remeet_protocol::{DomainId, Epoch, LegId, MeetingId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Tasks of a pipeline (parts.md trap 15 measured 1,000).
const PIPELINE: usize = 1_000;
/// Tasks that wait, of every kind: every leg of a large network once; some 50 MB of small writes.
pub(super) const QUEUE_MAX: usize = 100_000;
/// Ended legs that the cache has not forgotten: some 5 MB. As many would have to end while the cache is away.
const UNFORGOTTEN_MAX: usize = 100_000;
/// Pauses after the cache did not forget: it is asked until it does, but what it refuses for long costs nothing.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
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

/// The queue to the cache: one run of tasks at a time.
pub(super) struct Cacher {
    store: Arc<dyn Store>,
    cache: Arc<dyn Cache>,
    done: mpsc::UnboundedSender<Done>,
    helpers: Helpers,
    queue: VecDeque<CacheTask>,
    busy: bool,
    /// Ended legs whose keys and status the cache has kept: it was away, or the queue was full. Secrets must not linger,
    /// so this is repeated until it holds. Out of the queue's order: an ended leg is never cached again, and the cache
    /// refuses for minutes what it has forgotten.
    unforgotten: BTreeSet<(DomainId, LegId)>,
    /// When they are forgotten again, and the pause after that if it fails.
    again: Option<(Instant, Duration)>,
}

impl Cacher {
    /// One message is under way at a time.
    pub(super) fn new(
        store: Arc<dyn Store>,
        cache: Arc<dyn Cache>,
        helpers: Helpers,
    ) -> (Self, mpsc::UnboundedReceiver<Done>) {
        let (done, results) = mpsc::unbounded_channel();
        let (queue, unforgotten) = (VecDeque::new(), BTreeSet::new());
        (Self { store, cache, done, helpers, queue, busy: false, unforgotten, again: None }, results)
    }

    /// Queues a task. Beyond the bound none is: the input says that what is cached of the leg is behind, and the next
    /// comparison mends it; an ended leg is forgotten later.
    pub(super) fn push(&mut self, task: CacheTask) -> Option<Input> {
        if self.queue.len() < QUEUE_MAX {
            self.queue.push_back(task);
            return None;
        }
        let full = |leg| Some(Input::Cached(vec![leg], Err("too many cache tasks wait".to_owned())));
        match task {
            CacheTask::Write(write) => full(write.head.leg),
            CacheTask::Refill(head) => full(head.leg),
            CacheTask::MirrorKey(leg) => Some(Input::Uncached(leg)),
            CacheTask::PutKey(key) => Some(Input::Uncached(key.leg)),
            CacheTask::Forget(domain, leg) => {
                self.keep((domain, leg));
                None
            }
            // The next sweep asks again.
            CacheTask::ForgetEnded(..) => None,
        }
    }

    /// Remembers an ended leg that is cached still.
    fn keep(&mut self, name: (DomainId, LegId)) {
        if self.unforgotten.len() < UNFORGOTTEN_MAX {
            self.unforgotten.insert(name);
        } else {
            tracing::warn!(leg = %name.1, "more ended meetings than can be remembered are cached still: this one stays");
        }
        self.again.get_or_insert_with(|| (Instant::now(), PAUSE_FIRST));
    }

    /// Tasks that are queued or being done, and ended legs to be forgotten.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.unforgotten.len() + usize::from(self.busy)
    }

    /// The run is over; these legs are cached still.
    pub(super) fn ended(&mut self, unforgotten: Vec<(DomainId, LegId)>) {
        self.busy = false;
        if unforgotten.is_empty() {
            return;
        }
        let pause = self.again.map_or(PAUSE_FIRST, |(_, pause)| pause);
        self.again = Some((Instant::now() + pause, (pause * 2).min(PAUSE_MAX)));
        for name in unforgotten {
            self.keep(name);
        }
    }

    /// Asks the cache for something small, to see whether it answers again. If it owes something it is asked for that:
    /// one that may only be read answers nothing else.
    pub(super) fn probe(&mut self, epoch: Epoch) {
        if self.busy {
            return;
        }
        if !self.unforgotten.is_empty() {
            return self.forget_again(epoch);
        }
        self.busy = true;
        let (cache, done) = (Arc::clone(&self.cache), self.done.clone());
        self.helpers.spawn("looking whether the cache answers", async move {
            let nothing = LegId { meeting: MeetingId::default(), leg: 0 };
            let health = cache.stamps(&[(DomainId(0), nothing)]).await.map(|_| ()).map_err(|error| error.to_string());
            let _ = done.send(Done { inputs: Vec::new(), health: Some(health), unforgotten: Vec::new() });
        });
    }

    /// Forgets ended legs that are cached still, as many as a pipeline takes.
    fn forget_again(&mut self, epoch: Epoch) {
        let legs: Vec<_> = std::iter::from_fn(|| self.unforgotten.pop_first()).take(PIPELINE).collect();
        self.run(epoch, legs.into_iter().map(|(domain, leg)| CacheTask::Forget(domain, leg)).collect());
    }

    /// Begins the next run: tasks of one kind from the queue's head, so that order is kept.
    pub(super) fn begin(&mut self, epoch: Epoch) {
        if self.busy {
            return;
        }
        if self.unforgotten.is_empty() {
            self.again = None;
        } else if self.again.is_none_or(|(at, _)| at <= Instant::now()) {
            return self.forget_again(epoch);
        }
        if self.queue.is_empty() {
            return;
        }
        let kind = self.queue.front().map(std::mem::discriminant);
        let same = self.queue.iter().take(PIPELINE).take_while(|task| Some(std::mem::discriminant(*task)) == kind);
        let count = same.count();
        let tasks: Vec<CacheTask> = self.queue.drain(..count).collect();
        self.run(epoch, tasks);
    }

    fn run(&mut self, epoch: Epoch, tasks: Vec<CacheTask>) {
        self.busy = true;
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
                CacheTask::Write(write) => writes.push(write),
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
                Err(error) => tracing::warn!("keys to mirror: {error}"),
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
        let mut contents: BTreeMap<LegId, _> = self
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
            if let Some(content) = contents.remove(&head.leg) {
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
        // A leg that is not stored (any more) has nothing to cache.
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
