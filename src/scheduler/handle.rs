//! What everything above the scheduler may ask of it.

use super::presence::{Presence, Presences};
use crate::model::StoredLeg;
use crate::ops::status::Status;
use crate::recovery::dry_run::ServerPlan;
use crate::recovery::{Published, Rights};
use crate::store::{Cache, Store};
use remeet_protocol::message::{ClientAnswer, ClientCommand, MeetingState};
use remeet_protocol::{Epoch, Holder, LegId, ServerId};
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// The scheduler's public handle. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) published: broadcast::Sender<Arc<Published>>,
    pub(super) store: Arc<dyn Store>,
    pub(super) cache: Arc<dyn Cache>,
    pub(super) shared: Arc<Shared>,
    pub(super) holder: Holder,
}

/// Numbers that others read and write without asking the driver.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub epoch: watch::Sender<Epoch>,
    pub clients: Presences,
    pub subscribers: Presences,
}

/// The scheduler has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the scheduler has ended")]
pub struct Gone;

/// What is asked of the driver's task.
pub(super) enum Request {
    Command {
        rights: Rights,
        command: ClientCommand,
        answer: oneshot::Sender<ClientAnswer>,
    },
    Derive {
        rows: Vec<Vec<StoredLeg>>,
        answer: oneshot::Sender<Vec<(MeetingState, bool)>>,
    },
    Status(oneshot::Sender<Box<Status>>),
    /// Also which servers' legs are only in the store.
    Troubled(oneshot::Sender<(Vec<Troubled>, Vec<ServerId>)>),
    Reconcile {
        server: Option<ServerId>,
        answer: oneshot::Sender<Result<Reconciled, ReconcileError>>,
    },
    LiftQuarantine {
        leg: LegId,
        answer: oneshot::Sender<ClientAnswer>,
    },
    DryRun {
        server: Option<ServerId>,
        plans: oneshot::Sender<Result<mpsc::UnboundedReceiver<ServerPlan>, ReconcileError>>,
    },
    StepDown(oneshot::Sender<Result<(), String>>),
    Count(&'static str),
}

/// The servers that were asked to be compared.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Reconciled {
    /// A round has begun, or follows the one that runs.
    pub compared: Vec<ServerId>,
    /// Not connected: they are compared as soon as they are.
    pub unreachable: Vec<ServerId>,
}

/// Why nothing is compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// The database has not answered yet.
    #[error(
        "the scheduler has no term yet: it waits for the database, and compares every server as soon as it answers"
    )]
    NoTerm,
    /// No such server.
    #[error("no server {server} is in the configuration; there are {}", listed(known))]
    UnknownServer {
        /// As asked.
        server: ServerId,
        /// Those that there are.
        known: Vec<ServerId>,
    },
}

fn listed(servers: &[ServerId]) -> String {
    servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A leg in trouble, for the operator.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Troubled {
    pub leg: LegId,
    pub server: ServerId,
    pub reason: String,
    /// The server's name of an orphan: what `adopt` wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<remeet_protocol::Handle>,
}

#[cfg(test)]
impl Handle {
    /// A handle without a scheduler behind it: the first request for states is answered by `derived`.
    pub(crate) fn that_derives<F>(
        store: Arc<dyn Store>,
        derived: impl FnOnce(Vec<Vec<StoredLeg>>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<(MeetingState, bool)>> + Send,
    {
        let (requests, mut asked) = mpsc::channel(1);
        tokio::spawn(async move {
            if let Some(Request::Derive { rows, answer }) = asked.recv().await {
                let _ = answer.send(derived(rows).await);
            }
        });
        let cache = crate::store::open_cache("memory:").expect("in process");
        let (published, shared) = (broadcast::channel(1).0, Arc::default());
        Self { requests, published, store, cache, shared, holder: Holder(uuid::Uuid::nil()) }
    }
}

impl Handle {
    /// Carries out a client's command; answered once its result is stored.
    ///
    /// # Errors
    /// The scheduler has ended; the command may or may not run: ask the next one, with the same id.
    pub async fn command(&self, rights: Rights, command: ClientCommand) -> Result<ClientAnswer, Gone> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::Command { rights, command, answer }).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }

    /// Meetings' states as clients see them, each from its stored legs; and whether what is stored may be
    /// behind, because the meeting is being recovered.
    ///
    /// # Errors
    /// The scheduler has ended.
    pub async fn derive(&self, rows: Vec<Vec<StoredLeg>>) -> Result<Vec<(MeetingState, bool)>, Gone> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::Derive { rows, answer }).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }

    /// Everything that is told to subscribers from now on. A receiver that is too slow loses the oldest
    /// and is told so.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// How it is.
    ///
    /// # Errors
    /// The scheduler has ended.
    pub async fn status(&self) -> Result<Box<Status>, Gone> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::Status(answer)).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }

    /// Compares everything with one server, or with every one, in the background.
    ///
    /// # Errors
    /// The scheduler has ended; within, why nothing is compared.
    pub async fn reconcile(&self, server: Option<ServerId>) -> Result<Result<Reconciled, ReconcileError>, Gone> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::Reconcile { server, answer }).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }

    /// Pulls a quarantined leg whole and counts it again. Answered once that it adds up is stored, or with
    /// why it stays quarantined.
    ///
    /// # Errors
    /// The scheduler has ended.
    pub async fn lift_quarantine(&self, leg: LegId) -> Result<ClientAnswer, Gone> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::LiftQuarantine { leg, answer }).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }

    /// What a round would do now, a plan each server as it is made; nothing is done.
    ///
    /// # Errors
    /// The scheduler has ended, or there is no such server.
    pub async fn dry_run(
        &self,
        server: Option<ServerId>,
    ) -> Result<Result<mpsc::UnboundedReceiver<ServerPlan>, ReconcileError>, Gone> {
        let (plans, result) = oneshot::channel();
        self.requests.send(Request::DryRun { server, plans }).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }

    /// Hands over: answered once the lease is released. `Err` says why there is nothing to hand over.
    ///
    /// # Errors
    /// The scheduler has ended.
    pub async fn step_down(&self) -> Result<Result<(), String>, Gone> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::StepDown(answer)).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }

    /// Counts something that happened above.
    pub fn count(&self, name: &'static str) {
        // A full queue costs a count, never an answer.
        let _ = self.requests.try_send(Request::Count(name));
    }

    /// The current term; 0 while there is none.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        *self.shared.epoch.borrow()
    }

    /// Says when a term begins: what a standby told may lack what the holder before did since.
    #[must_use]
    pub fn terms(&self) -> watch::Receiver<Epoch> {
        self.shared.epoch.subscribe()
    }

    /// This process's life.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// The store, for reads.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The cache, for reads.
    #[must_use]
    pub fn cache(&self) -> &Arc<dyn Cache> {
        &self.cache
    }

    /// A client connected; the guard says when it leaves.
    #[must_use]
    pub fn client_connected(&self) -> Presence {
        self.shared.clients.enter()
    }

    /// A client subscribed; the guard says when it stops.
    #[must_use]
    pub fn client_subscribed(&self) -> Presence {
        self.shared.subscribers.enter()
    }

    /// Legs in trouble; and the servers that have not answered in this term, whose legs are only in the store.
    pub(super) async fn troubled(&self) -> Result<(Vec<Troubled>, Vec<ServerId>), Gone> {
        let (answer, result) = oneshot::channel();
        self.requests.send(Request::Troubled(answer)).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }
}
