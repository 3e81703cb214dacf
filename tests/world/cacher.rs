//! The cache: the real in-process one, behind the driver's real queue of tasks.

use super::process::Process;
use super::store::{Kept, Store};
use super::{Happening, Site, World};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use remeet::model::{LegContent, RecoveryKey, StoredState};
use remeet::recovery::{CacheTask, Input};
use remeet::store::memory::MemoryCache;
use remeet::store::{Cache, CacheDump, CacheOutcome, CacheStamp, CacheWrite, CachedKey};
use remeet_protocol::{DomainId, Epoch, LegId, Secret};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A cache that is away is asked this often whether it answers again.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The secret of a key that a fault has planted.
pub(super) const PLANTED: [u8; 16] = [5; 16];

/// What a run of tasks has read from the store.
pub(super) struct Stored {
    contents: BTreeMap<LegId, LegContent>,
    keys: BTreeMap<LegId, RecoveryKey>,
    ended: BTreeSet<LegId>,
}

impl Stored {
    fn of(store: &Store, tasks: &[CacheTask]) -> Self {
        let refilled: Vec<LegId> =
            tasks.iter().filter(|task| matches!(task, CacheTask::Refill(_))).map(CacheTask::leg).collect();
        let kept = || tasks.iter().filter_map(|task| store.legs.get(&task.leg()));
        let ended = |kept: &&Kept| kept.row.state == StoredState::Ended;
        Self {
            contents: store.contents(&refilled).into_iter().map(|content| (content.leg, content)).collect(),
            keys: kept().map(|kept| (kept.row.leg, kept.key.clone())).collect(),
            ended: kept().filter(ended).map(|kept| kept.row.leg).collect(),
        }
    }
}

/// The in-process cache answers when it is polled.
fn now<T>(call: BoxFuture<'_, T>) -> T {
    call.now_or_never().expect("the in-process cache does not wait")
}

fn dump(cache: &MemoryCache) -> CacheDump {
    now(cache.dump(usize::MAX)).expect("in process")
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

    /// What tasks need of the store is read now, and the cache is written later.
    pub(super) fn cache_run(&mut self, life: u64, epoch: Epoch, tasks: Vec<CacheTask>) {
        let reads = |task: &CacheTask| {
            matches!(task, CacheTask::Refill(_) | CacheTask::MirrorKey(_) | CacheTask::ForgetEnded(..))
        };
        let away = tasks.iter().any(reads) && self.is_store_away(self.node_of(life));
        let stored = (!away).then(|| Stored::of(&self.store, &tasks));
        let pause = self.dice.pause(self.options.store_delay);
        self.calendar.after(pause, Happening::CacheWritten { life, epoch, tasks, stored });
    }

    /// What a dead process had on its way to the cache may still come through, or not.
    pub(super) fn cache_written(&mut self, life: u64, epoch: Epoch, tasks: Vec<CacheTask>, stored: Option<Stored>) {
        let (now, unsure) = (self.calendar.now(), self.dice.chance(self.options.cache_unsure));
        let node = self.node_of(life);
        let Some(stored) = stored else { return self.cache_not_asked(life, &tasks) };
        let refuses = self.cache_refuses(tasks.is_empty());
        if (unsure || node.is_none()) && !refuses && self.dice.chance(0.5) {
            for task in tasks.clone() {
                self.carry_out_cache_task(epoch, task, &stored);
            }
        }
        let Some(node) = node else { return };
        let down = refuses || unsure;
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
                Ok(self.carry_out_cache_task(epoch, task, &stored))
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
        self.cache_told(life, inputs);
    }

    /// The store could not say what was to be cached.
    fn cache_not_asked(&mut self, life: u64, tasks: &[CacheTask]) {
        let Some(node) = self.node_of(life) else { return };
        let now = self.calendar.now();
        if let Some(process) = &mut self.nodes[node].process {
            process.cache_queue.end(now, Vec::new());
        }
        let inputs = tasks.iter().filter_map(|task| match task {
            CacheTask::Refill(head) => Some(Input::Cached(vec![head.leg], Err("the store is down".to_owned()))),
            CacheTask::MirrorKey(leg) => Some(Input::Uncached(*leg)),
            _ => None,
        });
        self.cache_told(life, inputs.collect());
    }

    fn cache_told(&mut self, life: u64, inputs: Vec<Input>) {
        for input in inputs {
            if let Some(node) = self.node_of(life) {
                self.input_at(node, input);
            }
        }
        self.wake(life);
    }

    /// Whether a call fails: one that only reads, or another. Asked at the moment of the call.
    fn cache_refuses(&mut self, reads: bool) -> bool {
        if self.cache_down {
            self.bites(Site::Cache);
        } else if self.cache_readonly && !reads {
            self.bites(Site::CacheWrites);
        }
        self.cache_down || self.cache_readonly && !reads
    }

    fn carry_out_cache_task(&mut self, epoch: Epoch, task: CacheTask, stored: &Stored) -> Vec<CacheOutcome> {
        let cache = &self.cache;
        let put = |leg: &LegId| {
            let keys: Vec<_> = stored.keys.get(leg).cloned().into_iter().collect();
            now(cache.put_keys(epoch, &keys)).expect("in process");
        };
        match task {
            CacheTask::Write(write) => {
                let outcomes = now(cache.write(std::slice::from_ref(&write))).expect("in process");
                self.look_at_cached(write.head.domain, write.head.leg);
                outcomes
            }
            CacheTask::Refill(head) => {
                put(&head.leg);
                let content = stored.contents.get(&head.leg).cloned();
                let content = content.filter(|content| content.is_of(head.boot, head.handle));
                let Some(content) = content else { return vec![CacheOutcome::Lost] };
                let (domain, leg) = (head.domain, head.leg);
                let write = CacheWrite { head, base: None, mark: content.mark, changes: content.changes };
                let outcomes = now(cache.write(&[write])).expect("in process");
                self.look_at_cached(domain, leg);
                outcomes
            }
            CacheTask::MirrorKey(leg) => {
                put(&leg);
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
                if stored.ended.contains(&leg) {
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

    pub(super) fn cached_keys(&mut self, legs: &[(DomainId, LegId)]) -> Result<Vec<CachedKey>, String> {
        if self.cache_refuses(true) {
            return Err("the cache is down".to_owned());
        }
        let keys = now(self.cache.keys(legs)).map_err(|error| error.to_string())?;
        for planted in keys.iter().filter(|key| key.secret.expose() == Secret::new(PLANTED).expose()) {
            self.bites(Site::CachedKey(planted.leg));
        }
        Ok(keys)
    }

    pub(super) fn cache_stamps(&mut self, legs: &[(DomainId, LegId)]) -> Result<Vec<CacheStamp>, String> {
        if self.cache_refuses(true) {
            return Err("the cache is down".to_owned());
        }
        now(self.cache.stamps(legs)).map_err(|error| error.to_string())
    }

    pub(super) fn cache_names(&mut self, domain: DomainId) -> Result<Vec<LegId>, String> {
        if self.cache_refuses(true) {
            return Err("the cache is down".to_owned());
        }
        let mut names = now(self.cache.names(domain, usize::MAX)).map_err(|error| error.to_string())?;
        // The cache answers in any order: here in the same one in every run.
        names.sort_unstable();
        Ok(names)
    }

    /// Everything cached.
    pub(super) fn cache_dump(&self) -> CacheDump {
        dump(&self.cache)
    }

    /// What is cached of a leg is lost, and with it under which term it was.
    pub(super) fn cache_evicts(&mut self, leg: LegId) {
        self.cache.evict(super::servers::DOMAIN, leg);
        self.seen.cached.remove(&leg);
    }

    /// The cache is what it was some time ago.
    pub(super) fn cache_goes_back(&mut self, before: MemoryCache, fault: &'static str) {
        let now = std::mem::replace(&mut self.cache, before);
        self.seen.cached.clear();
        if format!("{:?}", self.cache_dump()) != format!("{:?}", dump(&now)) {
            self.fault(fault);
        }
    }

    /// Loses everything cached.
    pub(super) fn wipe_cache(&mut self) {
        self.cache = MemoryCache::default();
        self.seen.cached.clear();
    }
}
