//! Group commit as the driver does it: lanes, one batch in flight each, unknown commits settled.

use super::process::Process;
use super::store::Store;
use super::{Happening, World};
use remeet::session::PersistId;
use remeet::store::{Outcome, Unit, Write};
use remeet_protocol::Token;
use std::collections::VecDeque;
use std::time::Duration;

pub(super) type Batch = Vec<(PersistId, Unit)>;

/// Units of one leg share a lane, so they are written in order.
#[derive(Default)]
pub(super) struct Lane {
    queue: VecDeque<(PersistId, Unit)>,
    busy: bool,
}

impl Lane {
    pub(super) fn push(&mut self, id: PersistId, unit: Unit) {
        self.queue.push_back((id, unit));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.busy
    }
}

fn units(batch: &Batch) -> Vec<&Unit> {
    batch.iter().map(|(_, unit)| unit).collect()
}

impl World {
    pub(super) fn begin_batches(&mut self, process: &mut Process) {
        let Some(token) = process.token else { return };
        for (place, lane) in process.lanes.iter_mut().enumerate() {
            if lane.busy || lane.queue.is_empty() {
                continue;
            }
            lane.busy = true;
            let batch: Batch = lane.queue.drain(..).collect();
            let pause = self.dice.pause(self.options.store_delay);
            self.calendar.after(pause, Happening::Commit { life: self.life, lane: place, token, batch });
        }
    }

    /// The moment of a batch's commit. That of a dead process may still come through, or not.
    pub(super) fn commit(&mut self, life: u64, lane: usize, token: Token, batch: Batch) {
        let dead = life != self.life || self.process.is_none();
        if dead && self.dice.chance(0.5) {
            return;
        }
        if self.store_down {
            return self.calendar.after(Duration::from_millis(100), Happening::Commit { life, lane, token, batch });
        }
        let pause = self.dice.pause(self.options.store_delay);
        if self.dice.chance(self.options.unknown_commits) {
            let stood = self.dice.chance(0.5).then(|| self.stored(token, &batch)).flatten();
            return self.calendar.after(pause, Happening::Settle { life, lane, token, batch, stood });
        }
        let outcomes = self.stored(token, &batch);
        // A term that is over: nothing was written; its process is gone, as only one runs here.
        let Some(outcomes) = outcomes else { return assert!(dead, "a living scheduler was fenced") };
        let outcomes = batch.iter().map(|(id, _)| *id).zip(outcomes).collect();
        self.calendar.after(pause, Happening::Written { life, lane, outcomes, again: Vec::new() });
    }

    fn stored(&mut self, token: Token, batch: &Batch) -> Option<Vec<Outcome>> {
        let outcomes = self.store.write(token, &units(batch)).ok();
        self.check_transitions();
        outcomes
    }

    /// After an unknown commit: what compares a version is the core's to plan anew, the rest is written again.
    pub(super) fn settle(&mut self, life: u64, lane: usize, token: Token, batch: Batch, stood: Option<&[Outcome]>) {
        if life != self.life || self.process.is_none() {
            return;
        }
        let Ok(outcomes) = Store::settle(&mut self.store, token, &units(&batch), stood) else { return };
        let (mut known, mut again) = (Vec::new(), Vec::new());
        for ((id, unit), outcome) in batch.into_iter().zip(outcomes) {
            let compares = unit.writes.iter().any(|write| matches!(write, Write::State(_)));
            match outcome {
                Outcome::Lost { .. } if !compares => again.push((id, unit)),
                outcome => known.push((id, outcome)),
            }
        }
        let pause = self.dice.pause(self.options.store_delay);
        self.calendar.after(pause, Happening::Written { life, lane, outcomes: known, again });
    }

    pub(super) fn batch_ended(&mut self, life: u64, lane: usize, outcomes: Vec<(PersistId, Outcome)>, again: Batch) {
        let Some(process) = self.process.as_mut().filter(|_| life == self.life) else { return };
        let lane = &mut process.lanes[lane];
        lane.busy = false;
        for unit in again.into_iter().rev() {
            lane.queue.push_front(unit);
        }
        self.written(life, outcomes);
        // An empty list of outcomes must still begin the next batch.
        self.wake(life);
    }
}
