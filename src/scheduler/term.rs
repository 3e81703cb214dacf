//! What the store is asked about the term and its lease, each question in a task of its own; and what is tidied up
//! during a term. Decisions are [`crate::recovery::lease`]'s.

use super::helper::Helpers;
use crate::recovery::lease::{Incumbent, LeaseAnswer, LeaseAsk};
use crate::store::{Begun, Candidate, Store, StoreError};
use remeet_protocol::{Holder, Token};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Client answers and done intents are kept for 24 h, of 10,000 instances (design §3); what is beyond is deleted this
/// often, and for the first time soon after the term began: terms may be short. By then recovery has done with the
/// database.
pub(super) const PRUNE: PruneTimes = PruneTimes { first: Duration::from_secs(300), every: Duration::from_secs(3_600) };
const ANSWERS_KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
const INSTANCES_MAX: u32 = 10_000;
/// How long a release is listened for at a time: the wait is begun anew, since a connection may die in silence.
const LISTEN: Duration = Duration::from_secs(30);
/// Pause between two of these waits.
const TOLD_PAUSE: Duration = Duration::from_millis(50);

/// When old client answers and done intents are deleted.
#[derive(Debug, Clone, Copy)]
pub(super) struct PruneTimes {
    /// After the term's beginning.
    pub first: Duration,
    /// After each time.
    pub every: Duration,
}

/// Deletes old client answers and done intents now and then. Between two statements of the store it may end at any time.
pub(super) fn prune(
    helpers: &Helpers,
    store: Arc<dyn Store>,
    token: Token,
    times: PruneTimes,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(helpers.spawn("deleting old client answers", async move {
        let mut pause = times.first;
        loop {
            tokio::time::sleep(pause).await;
            pause = times.every;
            match store.prune_answers(token, ANSWERS_KEPT_FOR, INSTANCES_MAX).await {
                Ok(deleted) => tracing::debug!(deleted, "old client answers and done intents deleted"),
                Err(error) => tracing::warn!("old client answers and done intents are deleted later: {error}"),
            }
        }
    }))
}

/// Asks the store about the lease.
pub(super) struct Keeper {
    store: Arc<dyn Store>,
    helpers: Helpers,
    node: String,
    holder: Holder,
    lease: Duration,
    /// The schema is up to date. A standby sees to that too: migrations are additive.
    migrated: Arc<AtomicBool>,
    answers: mpsc::Sender<LeaseAnswer>,
    /// Ends with the term's beginning: only a standby waits for a release.
    listening: Option<AbortOnDropHandle<()>>,
}

impl Keeper {
    /// At most one question is under way, so its answer always has room.
    pub(super) fn new(
        store: Arc<dyn Store>,
        helpers: Helpers,
        node: String,
        holder: Holder,
        lease: Duration,
    ) -> (Self, mpsc::Receiver<LeaseAnswer>) {
        let (answers, receiver) = mpsc::channel(1);
        let migrated = Arc::new(AtomicBool::new(false));
        let keeper = Self { store, helpers, node, holder, lease, migrated, answers, listening: None };
        (keeper, receiver)
    }

    /// Asks; the answer comes by the channel.
    pub(super) fn ask(&self, ask: LeaseAsk) {
        let (store, answers, lease) = (Arc::clone(&self.store), self.answers.clone(), self.lease);
        let (node, holder, migrated) = (self.node.clone(), self.holder, Arc::clone(&self.migrated));
        self.helpers.spawn("asking the store about the lease", async move {
            let answer = match ask {
                LeaseAsk::Renew(token) => renewed(store.renew(token, lease).await),
                LeaseAsk::Begin { above } => {
                    let candidate = Candidate { node: &node, holder, lease, epoch_above: above };
                    begun(begin(store.as_ref(), &migrated, candidate).await)
                }
            };
            // The receiver is gone only when the driver is.
            let _ = answers.send(answer).await;
        });
    }

    /// Waits for releases from now on: each is told by the channel.
    pub(super) fn listen(&mut self) -> mpsc::Receiver<()> {
        let (told, receiver) = mpsc::channel(1);
        let store = Arc::clone(&self.store);
        self.listening = Some(AbortOnDropHandle::new(self.helpers.spawn("waiting for a release", async move {
            loop {
                store.released(LISTEN).await;
                // A lease that has run out is told at once, each time.
                tokio::time::sleep(TOLD_PAUSE).await;
                // One that waits to be heard says as much as two.
                if let Err(mpsc::error::TrySendError::Closed(())) = told.try_send(()) {
                    return;
                }
            }
        })));
        receiver
    }

    /// No release is waited for any more.
    pub(super) fn deaf(&mut self) {
        self.listening = None;
    }

    /// Ends the lease: a standby begins its term at once. That it fails costs the standby the rest of the lease.
    ///
    /// # Errors
    /// That, as the operator is told it.
    pub(super) async fn release(&self, token: Token) -> Result<(), String> {
        match self.store.release(token).await {
            Ok(()) => tracing::info!(epoch = token.epoch.0, "the lease is released"),
            Err(StoreError::Fenced { .. }) => {}
            Err(error) => {
                let text = format!(
                    "this scheduler commands no more, but its lease could not be released: {error}; a standby takes \
                     over when it has run out"
                );
                tracing::warn!("{text}");
                return Err(text);
            }
        }
        Ok(())
    }
}

async fn begin(store: &dyn Store, migrated: &AtomicBool, candidate: Candidate<'_>) -> Result<Begun, StoreError> {
    if !migrated.load(Ordering::Relaxed) {
        store.migrate().await?;
        migrated.store(true, Ordering::Relaxed);
    }
    store.begin_term(candidate).await
}

fn begun(begun: Result<Begun, StoreError>) -> LeaseAnswer {
    match begun {
        Ok(Begun::Granted(token)) => LeaseAnswer::Granted(token),
        Ok(Begun::Held(standing)) => LeaseAnswer::Held(Incumbent {
            node: standing.node,
            epoch: standing.token.epoch,
            remaining: standing.remaining,
        }),
        Err(error) => LeaseAnswer::Failed(error.to_string()),
    }
}

fn renewed(renewed: Result<(), StoreError>) -> LeaseAnswer {
    match renewed {
        Ok(()) => LeaseAnswer::Renewed,
        Err(StoreError::Fenced { .. }) => LeaseAnswer::Fenced,
        Err(error) => LeaseAnswer::Failed(error.to_string()),
    }
}
