//! Writes the lanes' batches to the store. What is in them, and what follows, is [`crate::recovery::lanes`]'s.

use super::helper::Helpers;
use crate::recovery::Input;
use crate::recovery::lanes::{Batch, Lanes, PAUSE_FIRST, Units, longer, settled};
use crate::session::PersistId;
use crate::store::{Outcome, Store, StoreError, Unit};
use remeet_protocol::Token;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A batch's end.
#[derive(Debug)]
pub(super) struct Done {
    lane: usize,
    result: Result<Vec<(PersistId, Outcome)>, StoreError>,
    /// What must be tried again.
    again: Units,
    /// Rows that the units which stand asked for.
    rows: u64,
}

/// The lanes, and who writes their batches.
pub(super) struct Writers {
    store: Arc<dyn Store>,
    done: mpsc::UnboundedSender<Done>,
    helpers: Helpers,
    lanes: Lanes,
    rows: u64,
}

impl Writers {
    /// Each lane has at most one message under way, so the channel is bounded by their number.
    pub(super) fn new(store: Arc<dyn Store>, helpers: Helpers) -> (Self, mpsc::UnboundedReceiver<Done>) {
        let (done, results) = mpsc::unbounded_channel();
        (Self { store, done, helpers, lanes: Lanes::default(), rows: 0 }, results)
    }

    /// Queues a unit.
    pub(super) fn push(&mut self, lane: u64, id: PersistId, unit: Unit) {
        self.lanes.push(lane, id, unit);
    }

    /// Units that are queued or being written.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.waiting()
    }

    /// Rows written, those that agreed already among them.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Begins a batch in every idle lane that has something.
    pub(super) fn begin(&mut self, token: Token) {
        while let Some(Batch { lane, pause, units }) = self.lanes.begin() {
            let (store, done) = (Arc::clone(&self.store), self.done.clone());
            // Never dropped half-way: the driver waits for it, also at its end.
            self.helpers.spawn("writing to the store", async move {
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                // The receiver is gone only when the driver is.
                let _ = done.send(write(store.as_ref(), token, lane, units).await);
            });
        }
    }

    /// Takes a batch's end: inputs for the core.
    pub(super) fn end(&mut self, done: Done) -> Result<Vec<Input>, StoreError> {
        self.rows += done.rows;
        self.lanes.end(done.lane, done.result.is_ok(), done.again);
        let outcomes = done.result?;
        Ok(outcomes.into_iter().map(|(id, outcome)| Input::Written(id, outcome)).collect())
    }
}

async fn write(store: &dyn Store, token: Token, lane: usize, batch: Units) -> Done {
    let (ids, units): (Vec<PersistId>, Vec<Unit>) = batch.into_iter().unzip();
    match store.write(token, &units).await {
        Ok(outcomes) => {
            let rows = rows(&units, &outcomes);
            Done { lane, result: Ok(ids.into_iter().zip(outcomes).collect()), again: Vec::new(), rows }
        }
        Err(StoreError::Unknown { doing, reason }) => {
            tracing::warn!("{doing}: the commit's outcome is unknown, the rows are read again: {reason}");
            settle(store, token, lane, ids, units).await
        }
        Err(error) => Done { lane, result: Err(error), again: ids.into_iter().zip(units).collect(), rows: 0 },
    }
}

fn rows(units: &[Unit], outcomes: &[Outcome]) -> u64 {
    let stand = units.iter().zip(outcomes).filter(|(_, outcome)| matches!(outcome, Outcome::Applied { .. }));
    stand.map(|(unit, _)| unit.rows()).sum()
}

/// Rule 12: a write raises the rows' versions, so that the late commit loses; then what stands is known.
async fn settle(store: &dyn Store, token: Token, lane: usize, ids: Vec<PersistId>, units: Vec<Unit>) -> Done {
    let mut pause = PAUSE_FIRST;
    loop {
        match store.settle(token, &units).await {
            Ok(outcomes) => {
                let rows = rows(&units, &outcomes);
                let (known, again) = settled(ids.into_iter().zip(units).collect(), outcomes);
                return Done { lane, result: Ok(known), again, rows };
            }
            Err(error @ StoreError::Fenced { .. }) => {
                return Done { lane, result: Err(error), again: Vec::new(), rows: 0 };
            }
            Err(error) => {
                tracing::warn!("settling an unknown commit: {error}");
                tokio::time::sleep(pause).await;
                pause = longer(pause);
            }
        }
    }
}
