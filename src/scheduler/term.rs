//! The beginning of a term, and what is tidied up during it.

use crate::store::{Begun, Candidate, Store};
use remeet_protocol::{Epoch, Holder, Token};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Client answers and done intents are kept for 24 h, of 10,000 instances (design §3); what is beyond is deleted this
/// often.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
const ANSWERS_KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
const INSTANCES_MAX: u32 = 10_000;
/// How long a term's lease lasts (design §5).
const LEASE: Duration = Duration::from_secs(6);

/// Deletes old client answers and done intents now and then. Between two statements of the store it may end at any time.
pub(super) fn prune(store: Arc<dyn Store>, token: Token) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(PRUNE_EVERY).await;
            match store.prune_answers(token, ANSWERS_KEPT_FOR, INSTANCES_MAX).await {
                Ok(deleted) => tracing::debug!(deleted, "old client answers and done intents deleted"),
                Err(error) => tracing::warn!("old client answers and done intents are deleted later: {error}"),
            }
        }
    }))
}

/// How the beginning of a term goes.
pub(super) enum TermProgress {
    /// The database does not answer: it is asked again.
    Waiting(String),
    /// Another node holds the term: it is asked again.
    Held(String),
    /// It began.
    Began(Token),
}

/// Brings the schema up to date and begins a term; asks for as long as it takes. The database is the one
/// source of recovery keys after a restart: while it is down nothing is taken over (design §6).
pub(super) fn begin_term(
    store: Arc<dyn Store>,
    node: String,
    holder: Holder,
    stop: CancellationToken,
) -> mpsc::Receiver<TermProgress> {
    let (progress, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut pause = Duration::from_millis(100);
        loop {
            let began = async {
                store.migrate().await?;
                store.begin_term(Candidate { node: &node, holder, lease: LEASE, epoch_above: Epoch(0) }).await
            };
            let Some(began) = stop.run_until_cancelled(began).await else { return };
            match began {
                Ok(Begun::Granted(token)) => {
                    // The receiver is gone only when the driver is.
                    let _ = progress.send(TermProgress::Began(token)).await;
                    return;
                }
                Ok(Begun::Held(standing)) => {
                    let why = format!("another node holds the term: {}, as {}", standing.node, standing.token);
                    let _ = progress.send(TermProgress::Held(why)).await;
                }
                Err(error) => {
                    tracing::warn!("no term yet: {error}; asked again in {pause:?}");
                    let _ = progress.send(TermProgress::Waiting(error.to_string())).await;
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    });
    receiver
}
