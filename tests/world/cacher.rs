//! The cache: the real in-process one, behind the driver's real queue of tasks.

use super::process::Process;
use super::{Happening, World};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use remeet::model::{LegContent, StoredState};
use remeet::recovery::{CacheTask, Input};
use remeet::store::memory::MemoryCache;
use remeet::store::{Cache, CacheDump, CacheOutcome, CacheStamp, CacheWrite, CachedKey};
use remeet_protocol::{DomainId, Epoch, LegId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A cache that is away is asked this often whether it answers again.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The in-process cache answers when it is polled.
fn now<T>(call: BoxFuture<'_, T>) -> T {
    call.now_or_never().expect("the in-process cache does not wait")
}

impl World {
    pub(super) fn begin_cache_run(&mut self, process: &mut Process) {
        let Some(token) = process.core.token() else { return };
        let Some(tasks) = process.cache_queue.begin(self.calendar.now()) else { return };
        let pause = self.dice.pause(self.options.store_delay);
        self.calendar.after(pause, Happening::CacheRun { life: process.life, epoch: token.epoch, tasks });
    }

    /// One that is away is asked now and then, as the driver does.
    pub(super) fn probe_cache(&mut self, node: usize) {
        let now = self.calendar.now();
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(token) = process.core.token() else { return };
        if process.probes_at.is_none_or(|at| now < at) {
            return;
        }
        process.probes_at = Some(now + PROBE_EVERY);
        let Some(tasks) = process.cache_queue.probe() else { return };
        let pause = self.dice.pause(self.options.store_delay);
        self.calendar.after(pause, Happening::CacheRun { life: process.life, epoch: token.epoch, tasks });
    }

    /// A refill reads the store now and writes the cache later; the others are one step.
    pub(super) fn cache_run(&mut self, life: u64, epoch: Epoch, tasks: Vec<CacheTask>) {
        let mut contents = BTreeMap::new();
        for task in &tasks {
            if let CacheTask::Refill(head) = task {
                contents.extend(self.store.contents(&[head.leg]).into_iter().map(|content| (content.leg, content)));
            }
        }
        let pause = self.dice.pause(self.options.store_delay);
        self.calendar.after(pause, Happening::CacheWritten { life, epoch, tasks, contents });
    }

    /// What a dead process had on its way to the cache may still come through, or not.
    pub(super) fn cache_written(
        &mut self,
        life: u64,
        epoch: Epoch,
        tasks: Vec<CacheTask>,
        mut contents: BTreeMap<LegId, LegContent>,
    ) {
        let (now, unsure) = (self.calendar.now(), self.dice.chance(self.options.cache_unsure));
        let node = self.node_of(life);
        if (unsure || node.is_none()) && !self.cache_down && self.dice.chance(0.5) {
            for task in tasks.clone() {
                self.carry_out_cache_task(epoch, task, &mut contents.clone());
            }
        }
        let Some(node) = node else { return };
        let down = self.cache_down || unsure;
        let Some(process) = &mut self.nodes[node].process else { return };
        let probes_at = down.then_some(now + PROBE_EVERY);
        let returned = std::mem::replace(&mut process.probes_at, probes_at).is_some() && !down;
        let mut unforgotten = Vec::new();
        let mut inputs = Vec::new();
        for task in tasks {
            let leg = match &task {
                CacheTask::Write(write) => Some(write.head.leg),
                CacheTask::Refill(head) => Some(head.leg),
                _ => None,
            };
            let outcomes = if down {
                if let CacheTask::Forget(domain, leg) = task {
                    unforgotten.push((domain, leg));
                }
                Err("the cache is down".to_owned())
            } else {
                Ok(self.carry_out_cache_task(epoch, task, &mut contents))
            };
            inputs.extend(leg.map(|leg| Input::Cached(vec![leg], outcomes)));
        }
        if let Some(process) = &mut self.nodes[node].process {
            process.cache_queue.end(now, unforgotten);
            if returned {
                process.cache_queue.answers_again(now);
            }
        }
        if returned {
            inputs.insert(0, Input::Reconcile(None));
        }
        for input in inputs {
            if self.node_of(life) == Some(node) {
                self.input_at(node, input);
            }
        }
        self.wake(life);
    }

    fn carry_out_cache_task(
        &mut self,
        epoch: Epoch,
        task: CacheTask,
        contents: &mut BTreeMap<LegId, LegContent>,
    ) -> Vec<CacheOutcome> {
        let key = |leg: &LegId| self.store.legs.get(leg).map(|kept| kept.key.clone());
        let cache = &self.cache;
        match task {
            CacheTask::Write(write) => {
                let outcomes = now(cache.write(std::slice::from_ref(&write))).expect("in process");
                self.look_at_cached(write.head.domain, write.head.leg);
                outcomes
            }
            CacheTask::Refill(head) => {
                let keys: Vec<_> = key(&head.leg).into_iter().collect();
                now(cache.put_keys(epoch, &keys)).expect("in process");
                let content = contents.remove(&head.leg);
                let content = content.filter(|content| content.is_of(head.boot, head.handle));
                let Some(content) = content else { return vec![CacheOutcome::Lost] };
                let (domain, leg) = (head.domain, head.leg);
                let write = CacheWrite { head, base: None, mark: content.mark, changes: content.changes };
                let outcomes = now(cache.write(&[write])).expect("in process");
                self.look_at_cached(domain, leg);
                outcomes
            }
            CacheTask::MirrorKey(leg) => {
                let keys: Vec<_> = key(&leg).into_iter().collect();
                now(cache.put_keys(epoch, &keys)).expect("in process");
                Vec::new()
            }
            CacheTask::PutKey(key) => {
                now(cache.put_keys(epoch, std::slice::from_ref(&*key))).expect("in process");
                Vec::new()
            }
            CacheTask::Forget(domain, leg) => {
                now(cache.forget(epoch, &[(domain, leg)])).expect("in process");
                Vec::new()
            }
            CacheTask::ForgetEnded(domain, leg) => {
                if self.store.legs.get(&leg).is_some_and(|kept| kept.row.state == StoredState::Ended) {
                    now(cache.forget(epoch, &[(domain, leg)])).expect("in process");
                }
                Vec::new()
            }
        }
    }

    fn look_at_cached(&mut self, domain: DomainId, leg: LegId) {
        let cached = now(self.cache.contents(&[(domain, leg)])).expect("in process");
        if let Some(cached) = cached.first() {
            self.check_cached(leg, cached.head.epoch);
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
        let mut names = now(self.cache.names(domain, usize::MAX)).map_err(|error| error.to_string())?;
        // The cache answers in any order: here in the same one in every run.
        names.sort_unstable();
        Ok(names)
    }

    /// Everything cached.
    pub(super) fn cache_dump(&self) -> CacheDump {
        now(self.cache.dump(usize::MAX)).expect("in process")
    }

    /// Loses everything cached.
    pub(super) fn wipe_cache(&mut self) {
        self.cache = MemoryCache::default();
        self.seen.cached.clear();
    }
}
