//! The cache of an embedded scheduler, in its own process: the contract of [`Cache`] without a server.
//!
//! Nobody else can read it, so [`Cache::dump`] gives it out whole. Calls take effect when they are
//! polled, one after the other under one lock: nothing can land late.

mod slot;

use super::{Cache, CacheDump, CacheError, CacheOutcome, CacheStamp, CacheWrite, CachedKey, CachedLeg};
use crate::model::RecoveryKey;
use futures_util::future::{BoxFuture, ready};
use remeet_protocol::{DomainId, Epoch, LegId};
use slot::Slot;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries (a key, a head, a record: one each) held at most by default. The largest load that the
/// project measures, 10,000 meetings of 10 terminals with some 10 records each, is one million; twice
/// that is room for growth and, at some 300 bytes an entry, well below a gigabyte.
const ENTRIES_MAX: usize = 2_000_000;

/// Legs remembered as forgotten. As many as may end between a status being read for a write and the
/// write being made, which is well below a second.
const GONE_MAX: usize = 10_000;

type Name = (DomainId, LegId);

/// The in-process cache. When it is full the legs written longest ago are evicted, always whole.
#[derive(Debug)]
pub struct MemoryCache {
    held: Mutex<Held>,
}

#[derive(Debug, Clone)]
struct Held {
    slots: HashMap<Name, Slot>,
    /// Slots by the turn of their last write: the first is evicted first.
    turns: BTreeMap<u64, Name>,
    next_turn: u64,
    entries: usize,
    entries_max: usize,
    gone: HashMap<Name, Epoch>,
    gone_in_order: VecDeque<Name>,
}

impl Clone for MemoryCache {
    fn clone(&self) -> Self {
        Self { held: Mutex::new(self.lock().clone()) }
    }
}

impl Default for MemoryCache {
    fn default() -> Self {
        Self::bounded(ENTRIES_MAX)
    }
}

impl MemoryCache {
    /// A cache of at most `entries_max` entries: each key, head and record is one.
    #[must_use]
    pub fn bounded(entries_max: usize) -> Self {
        Self {
            held: Mutex::new(Held {
                slots: HashMap::new(),
                turns: BTreeMap::new(),
                next_turn: 0,
                entries: 0,
                entries_max,
                gone: HashMap::new(),
                gone_in_order: VecDeque::new(),
            }),
        }
    }

    /// Loses what it holds of a leg, as a cache may at any time.
    pub fn evict(&self, domain: DomainId, leg: LegId) {
        self.lock().change((domain, leg), Slot::evict);
    }

    /// Entries held now.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.lock().entries
    }

    /// A panic elsewhere cannot leave a slot half written that a later full write would not mend.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Changes the slot of `name`, made if absent, and keeps count, turn and bound.
    fn change<T>(&mut self, name: Name, change: impl FnOnce(&mut Slot) -> T) -> T {
        let slot = self.slots.entry(name).or_default();
        let before = slot.entries();
        let result = change(slot);
        self.entries = self.entries - before + slot.entries();
        self.turns.remove(&slot.turn);
        if slot.is_empty() {
            self.slots.remove(&name);
        } else {
            self.next_turn += 1;
            slot.turn = self.next_turn;
            self.turns.insert(self.next_turn, name);
        }
        while self.entries > self.entries_max
            && let Some((_, oldest)) = self.turns.pop_first()
        {
            self.entries -= self.slots.remove(&oldest).map_or(0, |slot| slot.entries());
        }
        result
    }

    fn is_gone(&self, name: &Name, epoch: Epoch) -> bool {
        self.gone.get(name).is_some_and(|gone| *gone >= epoch)
    }

    fn remember_gone(&mut self, name: Name, epoch: Epoch) {
        if let Some(gone) = self.gone.get_mut(&name) {
            *gone = epoch.max(*gone);
            return;
        }
        if self.gone.len() >= GONE_MAX
            && let Some(oldest) = self.gone_in_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        self.gone.insert(name, epoch);
        self.gone_in_order.push_back(name);
    }
}

impl Cache for MemoryCache {
    fn put_keys<'a>(&'a self, epoch: Epoch, keys: &'a [RecoveryKey]) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move {
            let mut held = self.lock();
            for key in keys {
                let name = (key.domain, key.leg);
                if !held.is_gone(&name, epoch) {
                    held.change(name, |slot| slot.put_key(epoch, key));
                }
            }
            Ok(())
        })
    }

    fn keys<'a>(&'a self, legs: &'a [Name]) -> BoxFuture<'a, Result<Vec<CachedKey>, CacheError>> {
        Box::pin(async move {
            let held = self.lock();
            Ok(legs.iter().filter_map(|name| held.slots.get(name)?.key.clone()).collect())
        })
    }

    fn stamps<'a>(&'a self, legs: &'a [Name]) -> BoxFuture<'a, Result<Vec<CacheStamp>, CacheError>> {
        Box::pin(async move {
            let held = self.lock();
            let nothing = CacheStamp { generation: None, mark: None, place: None, state: None };
            Ok(legs.iter().map(|name| held.slots.get(name).map_or(nothing, Slot::stamp)).collect())
        })
    }

    fn write<'a>(&'a self, writes: &'a [CacheWrite]) -> BoxFuture<'a, Result<Vec<CacheOutcome>, CacheError>> {
        Box::pin(async move {
            let mut held = self.lock();
            let outcomes = writes.iter().map(|write| {
                let name = (write.head.domain, write.head.leg);
                if held.is_gone(&name, write.head.epoch) {
                    return CacheOutcome::Lost;
                }
                held.change(name, |slot| slot.write(write))
            });
            Ok(outcomes.collect())
        })
    }

    fn contents<'a>(&'a self, legs: &'a [Name]) -> BoxFuture<'a, Result<Vec<CachedLeg>, CacheError>> {
        Box::pin(async move {
            let held = self.lock();
            Ok(legs.iter().filter_map(|name| held.slots.get(name)?.leg()).collect())
        })
    }

    fn forget<'a>(&'a self, epoch: Epoch, legs: &'a [Name]) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move {
            let mut held = self.lock();
            for name in legs {
                held.change(*name, |slot| slot.forget(epoch));
                held.remember_gone(*name, epoch);
            }
            Ok(())
        })
    }

    fn forget_keys<'a>(&'a self, legs: &'a [Name]) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move {
            let mut held = self.lock();
            for name in legs {
                held.change(*name, |slot| slot.key = None);
            }
            Ok(())
        })
    }

    fn names(&self, domain: DomainId, max: usize) -> BoxFuture<'_, Result<Vec<LegId>, CacheError>> {
        let held = self.lock();
        let names = held.slots.iter().filter(|((of, _), slot)| *of == domain && !slot.is_empty());
        let names: Vec<LegId> = names.map(|((_, leg), _)| *leg).take(max).collect();
        Box::pin(ready(Ok(names)))
    }

    fn dump(&self, max: usize) -> BoxFuture<'_, Result<CacheDump, CacheError>> {
        let held = self.lock();
        let mut names: Vec<_> = held.slots.keys().copied().collect();
        names.sort_unstable();
        let slots = || names.iter().filter_map(|name| held.slots.get(name));
        let dump = CacheDump {
            legs: slots().filter_map(Slot::leg).take(max).collect(),
            keys: slots().filter_map(|slot| slot.key.clone()).take(max).collect(),
        };
        Box::pin(ready(Ok(dump)))
    }
}
