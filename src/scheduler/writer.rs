//! Group commit: units queue in lanes; each lane has one batch in flight and takes everything that has
//! gathered meanwhile. Units of one leg share a lane, so they are written in order.

use super::helper::Helpers;
use crate::recovery::Input;
use crate::session::PersistId;
use crate::store::{Outcome, Store, StoreError, Unit};
use remeet_protocol::Token;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Lanes. Two connections write twice as fast on two cores (parts.md trap 13); SQLite has one writer and
/// takes them in turn.
const LANES: usize = 2;
/// The most units of a batch: past a thousand rows a statement gains nothing (parts.md trap 4).
const BATCH: usize = 1_000;
/// Pauses between attempts while the store is down: it is asked for ever, since what is queued may not be
/// lost; its length is bounded by who asks (events by their window, pulls by their places, intents a leg, and clients
/// are answered `retry` by the driver).
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A batch's end.
#[derive(Debug)]
pub(super) struct Done {
    lane: usize,
    result: Result<Vec<(PersistId, Outcome)>, StoreError>,
    /// What must be tried again.
    again: Vec<(PersistId, Unit)>,
}

/// The lanes.
pub(super) struct Writers {
    store: Arc<dyn Store>,
    done: mpsc::UnboundedSender<Done>,
    helpers: Helpers,
    lanes: Vec<Lane>,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<(PersistId, Unit)>,
    busy: bool,
    pause: Option<Duration>,
}

impl Writers {
    /// Each lane has at most one message under way, so the channel is bounded by their number.
    pub(super) fn new(store: Arc<dyn Store>, helpers: Helpers) -> (Self, mpsc::UnboundedReceiver<Done>) {
        let (done, results) = mpsc::unbounded_channel();
        let lanes = (0..LANES).map(|_| Lane::default()).collect();
        (Self { store, done, helpers, lanes }, results)
    }

    /// Queues a unit.
    pub(super) fn push(&mut self, lane: u64, id: PersistId, unit: Unit) {
        let lane = usize::try_from(lane % LANES as u64).unwrap_or(0);
        self.lanes[lane].queue.push_back((id, unit));
    }

    /// Units that are queued or being written.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.queue.len() + usize::from(lane.busy)).sum()
    }

    /// Begins a batch in every idle lane that has something.
    pub(super) fn begin(&mut self, token: Token) {
        for (place, lane) in self.lanes.iter_mut().enumerate() {
            if lane.busy || lane.queue.is_empty() {
                continue;
            }
            lane.busy = true;
            let count = lane.queue.len().min(BATCH);
            let batch: Vec<(PersistId, Unit)> = lane.queue.drain(..count).collect();
            let pause = lane.pause;
            let (store, done) = (Arc::clone(&self.store), self.done.clone());
            // Never dropped half-way: the driver waits for it, also at its end.
            self.helpers.spawn("writing to the store", async move {
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                // The receiver is gone only when the driver is.
                let _ = done.send(write(store.as_ref(), token, place, batch).await);
            });
        }
    }

    /// Takes a batch's end: inputs for the core.
    pub(super) fn end(&mut self, done: Done) -> Result<Vec<Input>, StoreError> {
        let Done { lane, result, again } = done;
        let Some(lane) = self.lanes.get_mut(lane) else { return Ok(Vec::new()) };
        lane.busy = false;
        for unit in again.into_iter().rev() {
            lane.queue.push_front(unit);
        }
        match result {
            Ok(outcomes) => {
                lane.pause = None;
                Ok(outcomes.into_iter().map(|(id, outcome)| Input::Written(id, outcome)).collect())
            }
            Err(error) => {
                lane.pause = Some(lane.pause.map_or(PAUSE_FIRST, |pause| (pause * 2).min(PAUSE_MAX)));
                Err(error)
            }
        }
    }
}

async fn write(store: &dyn Store, token: Token, lane: usize, batch: Vec<(PersistId, Unit)>) -> Done {
    let (ids, units): (Vec<PersistId>, Vec<Unit>) = batch.into_iter().unzip();
    match store.write(token, &units).await {
        Ok(outcomes) => Done { lane, result: Ok(ids.into_iter().zip(outcomes).collect()), again: Vec::new() },
        Err(StoreError::Unknown { doing, reason }) => {
            tracing::warn!("{doing}: the commit's outcome is unknown, the rows are read again: {reason}");
            settle(store, token, lane, ids, units).await
        }
        Err(error) => Done { lane, result: Err(error), again: ids.into_iter().zip(units).collect() },
    }
}

/// Rule 12: a write raises the rows' versions, so that the late commit loses; then what stands is known.
async fn settle(store: &dyn Store, token: Token, lane: usize, ids: Vec<PersistId>, units: Vec<Unit>) -> Done {
    let mut pause = PAUSE_FIRST;
    loop {
        match store.settle(token, &units).await {
            Ok(outcomes) => {
                let mut known = Vec::new();
                let mut again = Vec::new();
                for ((id, unit), outcome) in ids.into_iter().zip(units).zip(outcomes) {
                    // What compares a version is planned anew by the core; the rest is simply written again.
                    let compares = unit.writes.iter().any(|write| matches!(write, crate::store::Write::State(_)));
                    match outcome {
                        Outcome::Lost { .. } if !compares => again.push((id, unit)),
                        outcome => known.push((id, outcome)),
                    }
                }
                return Done { lane, result: Ok(known), again };
            }
            Err(error @ StoreError::Fenced { .. }) => return Done { lane, result: Err(error), again: Vec::new() },
            Err(error) => {
                tracing::warn!("settling an unknown commit: {error}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}
