//! What is cached of one leg in process, and which write wins: the same decisions as the scripts of
//! the Redis cache (`store/redis/scripts.rs`), compared with them step by step in the contract suite.

use crate::guard::{Guard, holds};
use crate::model::RecoveryKey;
use crate::store::{CacheOutcome, CacheStamp, CacheWrite, CachedHead, CachedKey, CachedLeg};
use remeet_protocol::message::MeetingState;
use remeet_protocol::record::{Mark, RecordState};
use remeet_protocol::{Change, Epoch, RecordKey};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub(super) struct Slot {
    pub(super) key: Option<CachedKey>,
    status: Option<Status>,
    /// The turn of the last write; 0 before the first.
    pub(super) turn: u64,
}

#[derive(Debug, Clone)]
struct Status {
    head: CachedHead,
    mark: Mark,
    records: BTreeMap<RecordKey, Change>,
}

impl Slot {
    pub(super) fn entries(&self) -> usize {
        usize::from(self.key.is_some()) + self.status.as_ref().map_or(0, |status| 1 + status.records.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.key.is_none() && self.status.is_none()
    }

    pub(super) fn evict(&mut self) {
        (self.key, self.status) = (None, None);
    }

    pub(super) fn stamp(&self) -> CacheStamp {
        CacheStamp {
            generation: self.key.as_ref().map(|key| key.generation),
            mark: self.status.as_ref().map(|status| status.mark),
            place: self.status.as_ref().map(|status| (status.head.boot, status.head.handle)),
            state: self.status.as_ref().map(|status| status.head.state),
        }
    }

    pub(super) fn leg(&self) -> Option<CachedLeg> {
        self.status.as_ref().map(|status| CachedLeg {
            head: status.head.clone(),
            mark: status.mark,
            changes: status.records.values().cloned().collect(),
        })
    }

    /// Lower (epoch, generation) loses.
    pub(super) fn put_key(&mut self, epoch: Epoch, key: &RecoveryKey) {
        if self.key.as_ref().is_some_and(|held| (held.epoch, held.generation) > (epoch, key.generation)) {
            return;
        }
        self.key = Some(CachedKey { leg: key.leg, secret: key.secret.clone(), generation: key.generation, epoch });
    }

    pub(super) fn write(&mut self, write: &CacheWrite) -> CacheOutcome {
        if let Some(held) = &mut self.status {
            if held.head.epoch > write.head.epoch && holds(Guard::CachedEpoch) {
                return CacheOutcome::Lost;
            }
            let same_epoch = held.head.epoch == write.head.epoch;
            let same_place = (held.head.boot, held.head.handle) == (write.head.boot, write.head.handle);
            // Revisions compare only within one boot id and handle.
            if same_epoch && same_place && held.mark.revision > write.mark.revision {
                return CacheOutcome::Lost;
            }
            if same_place && held.mark == write.mark {
                if same_epoch && ends_backwards(held.head.state, write.head.state) {
                    return CacheOutcome::Lost;
                }
                // A whole content replaces what is held even so: an equal mark does not say that the records fit it.
                if write.base.is_some() {
                    held.head = write.head.clone();
                    return CacheOutcome::Applied;
                }
            }
            if let Some(base) = write.base {
                if !same_place || held.mark.revision != base {
                    return CacheOutcome::Stale;
                }
                held.head = write.head.clone();
                held.mark = write.mark;
                apply(&mut held.records, &write.changes);
                return CacheOutcome::Applied;
            }
        } else if write.base.is_some() {
            return CacheOutcome::Stale;
        }
        let mut records = BTreeMap::new();
        apply(&mut records, &write.changes);
        self.status = Some(Status { head: write.head.clone(), mark: write.mark, records });
        CacheOutcome::Applied
    }

    /// Forgets what no higher epoch wrote.
    pub(super) fn forget(&mut self, epoch: Epoch) {
        self.key.take_if(|key| key.epoch <= epoch);
        self.status.take_if(|status| status.head.epoch <= epoch);
    }
}

/// Whether `next` would bring an ended or ending leg back at the same content within one term.
fn ends_backwards(held: MeetingState, next: MeetingState) -> bool {
    match held {
        MeetingState::Ended => next != MeetingState::Ended,
        MeetingState::Ending => !matches!(next, MeetingState::Ending | MeetingState::Ended),
        _ => false,
    }
}

fn apply(records: &mut BTreeMap<RecordKey, Change>, changes: &[Change]) {
    for change in changes {
        match &change.state {
            RecordState::Present(record) => records.insert(record.key(), change.clone()),
            RecordState::Removed(key) => records.remove(key),
        };
    }
}
