//! The cache: the real in-process one, behind the driver's queue of tasks.

use super::process::Process;
use super::{Happening, World};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use remeet::model::{LegContent, StoredState};
use remeet::recovery::{CacheTask, Input};
use remeet::store::memory::MemoryCache;
use remeet::store::{Cache, CacheDump, CacheOutcome, CacheStamp, CacheWrite, CachedKey};
use remeet_protocol::{DomainId, LegId};
use std::collections::VecDeque;

/// Tasks wait for their turn, one at a time.
#[derive(Default)]
pub(super) struct Cacher {
    queue: VecDeque<CacheTask>,
    busy: bool,
    failed: bool,
}

impl Cacher {
    pub(super) fn push(&mut self, task: CacheTask) {
        self.queue.push_back(task);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.busy
    }
}

/// The in-process cache answers when it is polled.
fn now<T>(call: BoxFuture<'_, T>) -> T {
    call.now_or_never().expect("the in-process cache does not wait")
}

impl World {
    pub(super) fn begin_cache_task(&mut self, process: &mut Process) {
        if process.cacher.busy || process.token.is_none() {
            return;
        }
        let Some(task) = process.cacher.queue.pop_front() else { return };
        process.cacher.busy = true;
        let pause = self.dice.pause(self.options.store_delay);
        self.calendar.after(pause, Happening::CacheTask { life: self.life, task });
    }

    /// A refill reads the store now and writes the cache later; the others are one step.
    pub(super) fn cache_task(&mut self, life: u64, task: CacheTask) {
        let content = match &task {
            CacheTask::Refill(head) => self.store.contents(&[head.leg]).pop(),
            _ => None,
        };
        let pause = self.dice.pause(self.options.store_delay);
        self.calendar.after(pause, Happening::CacheWritten { life, task, content });
    }

    pub(super) fn cache_written(&mut self, life: u64, task: CacheTask, content: Option<LegContent>) {
        let Some(process) = self.process.as_mut().filter(|_| life == self.life) else { return };
        let epoch = process.token.map(|token| token.epoch).unwrap_or_default();
        process.cacher.busy = false;
        let down = self.cache_down;
        let returned = !down && std::mem::replace(&mut process.cacher.failed, down);
        process.cacher.failed = down;
        let key = |leg: &LegId| self.store.legs.get(leg).map(|kept| kept.key.clone());
        let done = match &task {
            _ if down => match &task {
                CacheTask::Write(write) => Some((write.head.leg, Err("the cache is down".to_owned()))),
                CacheTask::Refill(head) => Some((head.leg, Err("the cache is down".to_owned()))),
                _ => None,
            },
            CacheTask::Write(write) => {
                let outcomes = now(self.cache.write(std::slice::from_ref(write))).expect("in process");
                Some((write.head.leg, Ok(outcomes)))
            }
            CacheTask::Refill(head) => {
                let keys: Vec<_> = key(&head.leg).into_iter().collect();
                now(self.cache.put_keys(epoch, &keys)).expect("in process");
                let outcomes = match content {
                    Some(content) => {
                        let (mark, changes) = (content.mark, content.changes);
                        let write = CacheWrite { head: head.clone(), base: None, mark, changes };
                        now(self.cache.write(&[write])).expect("in process")
                    }
                    None => vec![CacheOutcome::Lost],
                };
                Some((head.leg, Ok(outcomes)))
            }
            CacheTask::MirrorKey(leg) => {
                let keys: Vec<_> = key(leg).into_iter().collect();
                now(self.cache.put_keys(epoch, &keys)).expect("in process");
                None
            }
            CacheTask::PutKey(key) => {
                now(self.cache.put_keys(epoch, std::slice::from_ref(&**key))).expect("in process");
                None
            }
            CacheTask::Forget(domain, leg) => {
                now(self.cache.forget(epoch, &[(*domain, *leg)])).expect("in process");
                None
            }
            CacheTask::ForgetEnded(domain, leg) => {
                if self.store.legs.get(leg).is_some_and(|kept| kept.row.state == StoredState::Ended) {
                    now(self.cache.forget(epoch, &[(*domain, *leg)])).expect("in process");
                }
                None
            }
        };
        if returned {
            self.input(Input::Reconcile(None));
        }
        match done {
            Some((leg, outcomes)) => self.input(Input::Cached(vec![leg], outcomes)),
            None => self.wake(life),
        }
    }

    pub(super) fn cached_keys(&self, legs: &[(DomainId, LegId)]) -> Result<Vec<CachedKey>, String> {
        if self.cache_down {
            return Err("the cache is down".to_owned());
        }
        now(self.cache.keys(legs)).map_err(|error| error.to_string())
    }

    pub(super) fn cache_stamps(&self, legs: &[(DomainId, LegId)]) -> Result<Vec<CacheStamp>, String> {
        if self.cache_down {
            return Err("the cache is down".to_owned());
        }
        now(self.cache.stamps(legs)).map_err(|error| error.to_string())
    }

    pub(super) fn cache_names(&self, domain: DomainId) -> Result<Vec<LegId>, String> {
        if self.cache_down {
            return Err("the cache is down".to_owned());
        }
        now(self.cache.names(domain, usize::MAX)).map_err(|error| error.to_string())
    }

    /// Everything cached.
    pub(super) fn cache_dump(&self) -> CacheDump {
        now(self.cache.dump(usize::MAX)).expect("in process")
    }

    /// Loses everything cached.
    pub(super) fn wipe_cache(&mut self) {
        self.cache = MemoryCache::default();
        self.cache_disturbed = true;
    }
}
