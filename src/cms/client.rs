//! The meeting client's side: a connection that comes back by itself, and commands that happen once.
//!
//! ```text
//!   Client ──asks──> Driver (one task owns the socket) ──packets──> scheduler
//!     ▲                │  Desk: open requests, window, repeats
//!     └──answers───────┘  Memory: instance and unanswered commands, in a file
//! ```
//!
//! - A command keeps its id (instance, number) until it is answered: it is sent again after every
//!   reconnect and after *retry*, *unavailable*, *busy* and *unknown outcome*, and has one effect.
//! - At most [`COMMANDS_IN_FLIGHT`] commands are open at a time, and no number runs more than
//!   [`NUMBERS_AHEAD`] ahead of the lowest open one: the scheduler keeps 256 answers an instance, so an
//!   open command can never become *too old*.
//! - Commands given from several tasks run in any order; who needs an order awaits each answer.
//! - Requests are packed: what is asked at the same time leaves in one write.

mod desk;
mod driver;
mod memory;
mod newest;
mod open;

pub use memory::{MemoryError, OpenCommand};

use crate::cms::client::desk::{CommandAsk, ReadAsk};
use memory::Memory;
use remeet_protocol::message::{ClientAnswer, ClientEvent, ClientOp, Failure, ListEntry, MeetingInfo};
use remeet_protocol::wire::Text;
use remeet_protocol::{Change, DomainId, Epoch, ErrorCode, LegId, MeetingId};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The most commands that are open at a time.
pub const COMMANDS_IN_FLIGHT: usize = 128;
/// How far a command's number may run ahead of the lowest open one: below the 256 kept answers.
pub const NUMBERS_AHEAD: u64 = 200;
/// The most gets and lists that are open at a time, awaited updates included.
pub const READS_IN_FLIGHT: usize = 128;
/// The most subscriptions of a client: a connection has one (SPEC K-10).
pub const SUBSCRIPTIONS_MAX: usize = 1;
/// The most notices that wait for a subscriber; then it gets a new snapshot instead.
pub const NOTICES_WAITING_MAX: usize = 1_024;
/// The most meetings in a list or snapshot, ten times the largest network foreseen.
pub const MEETINGS_MAX: usize = 1_000_000;
/// The most records of a meeting that a get takes in: thousands of terminals with all their entries.
pub const RECORDS_MAX: usize = 200_000;

/// Who the client is, and how patient.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Where the scheduler lets clients in.
    pub address: SocketAddr,
    /// Where others of the same domain do: the rest of an active / standby pair. The one that holds a term is
    /// looked for; a standby serves only while there is none. Default: nowhere.
    pub others: Vec<SocketAddr>,
    /// The client's id, as in the scheduler's configuration.
    pub id: u32,
    /// Its name, as in the scheduler's configuration.
    pub name: Text<64>,
    /// Deadline of a request, with all its repeats. Default 30 s: a scheduler's restart fits in.
    pub deadline: Duration,
    /// Deadline of one dial and handshake. Default 3 s.
    pub connect_deadline: Duration,
    /// First pause before dialling again; it doubles, with a random part. Default 50 ms.
    pub reconnect_first: Duration,
    /// Longest pause before dialling again, unless the scheduler asks for a longer one. Default 2 s.
    pub reconnect_max: Duration,
    /// Where the instance and unanswered commands are kept, so that a repeat after the client's own
    /// crash is recognised. Default: nowhere.
    pub memory: Option<PathBuf>,
}

impl ClientSettings {
    /// With every default.
    #[must_use]
    pub fn new(address: SocketAddr, id: u32, name: Text<64>) -> Self {
        Self {
            address,
            others: Vec::new(),
            id,
            name,
            deadline: Duration::from_secs(30),
            connect_deadline: Duration::from_secs(3),
            reconnect_first: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(2),
            memory: None,
        }
    }
}

/// Why a request came to nothing. A command whose outcome is not known may still have its effect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The scheduler refused, and trying again does not help.
    #[error("the scheduler refused: {}: {}", .0.code, detail(.0))]
    Refused(Failure),
    /// No final answer within the deadline.
    #[error("no answer in time ({last}); the scheduler may be down or still recovering: try again")]
    Deadline {
        /// The last that was heard, or the last error of the connection.
        last: String,
    },
    /// The scheduler broke the protocol.
    #[error("the scheduler's answer cannot be used: {0}")]
    Broken(String),
    /// Too many subscriptions, or the client is closed.
    #[error("{0}")]
    NotNow(&'static str),
    /// The memory file cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

fn detail(failure: &Failure) -> &str {
    if failure.detail.is_empty() { failure.code.sentence() } else { failure.detail.as_str() }
}

/// How the connection is.
#[derive(Debug, Clone, Default)]
pub struct LinkState {
    /// Connected, and the handshake is done.
    pub up: bool,
    /// How often that happened.
    pub connects: u64,
    /// The scheduler's domain, from its last welcome.
    pub domain: DomainId,
    /// Its term at that time; 0 while it had none.
    pub epoch: Epoch,
    /// Why the last connection or dial ended.
    pub last_error: Option<String>,
    /// The scheduler turned this client away: its identity, rights or version.
    pub refused: Option<Failure>,
}

/// A meeting, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeetingView {
    /// What it is and how it stands.
    pub info: MeetingInfo,
    /// Its records, each with its leg.
    pub records: Vec<(LegId, Change)>,
}

/// The answer to a get.
#[derive(Debug)]
pub struct Got {
    /// The meeting; while it is being recovered, as it was stored (`info.recovering`).
    pub view: MeetingView,
    /// With `recovering`: the update to come.
    pub update: Option<Update>,
}

/// A meeting's state once it is recovered. Dropping it gives the update up.
#[derive(Debug)]
pub struct Update(oneshot::Receiver<MeetingView>);

impl Update {
    /// Waits for it, over reconnects, at most `deadline`.
    ///
    /// # Errors
    /// The deadline passed, or the client was closed.
    pub async fn wait(self, deadline: Duration) -> Result<MeetingView, ClientError> {
        match tokio::time::timeout(deadline, self.0).await {
            Ok(Ok(view)) => Ok(view),
            Ok(Err(_)) => Err(ClientError::NotNow("the update was given up: the client is closed, or was refused")),
            Err(_) => Err(ClientError::Deadline { last: "the meeting is still being recovered".to_owned() }),
        }
    }
}

/// What a subscription tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Forget what you knew: these are the meetings. Comes first, after each reconnect, after a reset,
    /// and when this subscriber was too slow.
    Snapshot {
        /// The term.
        epoch: Epoch,
        /// The meetings that are not ended, in ascending order of id.
        meetings: Vec<ListEntry>,
    },
    /// Something changed; in order, without gap since the snapshot.
    Event(ClientEvent),
}

/// Events of one meeting or of all. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription(mpsc::Receiver<Notice>);

impl Subscription {
    /// The next notice; `None` once the client is closed or refused.
    pub async fn next(&mut self) -> Option<Notice> {
        self.0.recv().await
    }
}

/// A meeting client. Cheap to clone; the connection is closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    commands: mpsc::Sender<CommandAsk>,
    reads: mpsc::Sender<ReadAsk>,
    link: watch::Receiver<LinkState>,
    left_open: Arc<[OpenCommand]>,
    deadline: Duration,
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop_on_drop: DropGuard,
}

const CLOSED: ClientError = ClientError::NotNow("the client is closed");

impl Client {
    /// Connects, within the settings' deadline.
    ///
    /// # Errors
    /// The scheduler refuses this client, does not answer in time, or the memory file cannot be used.
    pub async fn connect(settings: ClientSettings) -> Result<Self, ClientError> {
        let deadline = Instant::now() + settings.deadline;
        let client = Self::start(settings)?;
        let mut link = client.link.clone();
        let heard = link.wait_for(|link| link.up || link.refused.is_some());
        match tokio::time::timeout_at(deadline, heard).await {
            Ok(Ok(link)) => match &link.refused {
                Some(failure) if !link.up => return Err(ClientError::Refused(failure.clone())),
                _ => {}
            },
            Ok(Err(_)) => return Err(CLOSED),
            Err(_) => return Err(client.late()),
        }
        Ok(client)
    }

    /// Begins to connect and returns at once; requests wait for the connection. Must be called within
    /// a runtime.
    ///
    /// # Errors
    /// The memory file cannot be used.
    pub fn start(settings: ClientSettings) -> Result<Self, ClientError> {
        let memory = Memory::open(settings.memory.as_deref())?;
        let left_open: Arc<[OpenCommand]> = memory.left_open().into();
        let (commands, command_asks) = mpsc::channel(COMMANDS_IN_FLIGHT);
        let (reads, read_asks) = mpsc::channel(READS_IN_FLIGHT);
        let (link_state, link) = watch::channel(LinkState::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let deadline = settings.deadline;
        tasks.spawn(driver::run(settings, memory, command_asks, read_asks, link_state, stop.clone()));
        tasks.close();
        let life = Arc::new(Life { _stop_on_drop: stop.clone().drop_guard(), stop, tasks });
        Ok(Self { commands, reads, link, left_open, deadline, life })
    }

    /// Commands a meeting and waits for the final answer, whatever its code.
    ///
    /// A command equal to one that an earlier life of the client left unanswered (see
    /// [`Client::left_open`]) is that command's repeat.
    ///
    /// # Errors
    /// No final answer: see [`ClientError`]. The outcome is then unknown, except for `Refused`.
    pub async fn command(&self, meeting: MeetingId, op: ClientOp) -> Result<ClientAnswer, ClientError> {
        self.command_within(meeting, op, self.deadline).await
    }

    /// The same with a deadline of its own.
    ///
    /// # Errors
    /// See [`Client::command`].
    pub async fn command_within(
        &self,
        meeting: MeetingId,
        op: ClientOp,
        deadline: Duration,
    ) -> Result<ClientAnswer, ClientError> {
        let deadline = Instant::now() + deadline;
        let (reply, answer) = oneshot::channel();
        let ask = CommandAsk { meeting, op, deadline, reply };
        self.answered(deadline, async { self.commands.send(ask).await.is_ok() }, answer).await
    }

    /// A meeting's state: at once, and once more when it is recovered.
    ///
    /// # Errors
    /// See [`ClientError`]; a meeting that is not known is `Refused`.
    pub async fn get(&self, meeting: MeetingId) -> Result<Got, ClientError> {
        let deadline = Instant::now() + self.deadline;
        let (reply, answer) = oneshot::channel();
        let (update, updated) = oneshot::channel();
        let ask = ReadAsk::Get { meeting, deadline, reply, update };
        let view: MeetingView = self.answered(deadline, async { self.reads.send(ask).await.is_ok() }, answer).await?;
        let update = view.info.recovering.then_some(Update(updated));
        Ok(Got { view, update })
    }

    /// The meetings that are not ended, in ascending order of id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self) -> Result<Vec<ListEntry>, ClientError> {
        let deadline = Instant::now() + self.deadline;
        let mut meetings = Vec::new();
        let mut after = MeetingId::default();
        loop {
            let (reply, answer) = oneshot::channel();
            let ask = ReadAsk::List { after, deadline, reply };
            let page = self.answered(deadline, async { self.reads.send(ask).await.is_ok() }, answer).await?;
            meetings.extend(page.entries);
            if page.complete {
                return Ok(meetings);
            }
            if page.after <= after || meetings.len() > MEETINGS_MAX {
                return Err(ClientError::Broken("a list without end".to_owned()));
            }
            after = page.after;
        }
    }

    /// Events of `meeting`, or of all meetings; a snapshot comes first.
    ///
    /// # Errors
    /// Too many subscriptions, or the client is closed. A refusal by the scheduler ends the stream.
    pub async fn subscribe(&self, meeting: Option<MeetingId>) -> Result<Subscription, ClientError> {
        let deadline = Instant::now() + self.deadline;
        let (notices, subscription) = mpsc::channel(NOTICES_WAITING_MAX);
        let (reply, answer) = oneshot::channel();
        let ask = ReadAsk::Subscribe { meeting, notices, reply };
        self.answered(deadline, async { self.reads.send(ask).await.is_ok() }, answer).await?;
        Ok(Subscription(subscription))
    }

    /// How the connection is, and how it changes.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.link.clone()
    }

    /// Commands that an earlier life of the client left unanswered, from the memory file.
    #[must_use]
    pub fn left_open(&self) -> &[OpenCommand] {
        &self.left_open
    }

    /// Says goodbye and waits until the connection is closed; what is still open ends with an error.
    pub async fn close(&self) {
        self.life.stop.cancel();
        self.life.tasks.wait().await;
    }

    async fn answered<T>(
        &self,
        deadline: Instant,
        sent: impl Future<Output = bool>,
        answer: oneshot::Receiver<Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let both = async {
            if !sent.await {
                return Err(CLOSED);
            }
            answer.await.unwrap_or(Err(CLOSED))
        };
        // The desk answers at the deadline and knows more; this is for asks that never reached it.
        match tokio::time::timeout_at(deadline + Duration::from_millis(500), both).await {
            Ok(answer) => answer,
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> ClientError {
        let link = self.link.borrow();
        let last = match (&link.last_error, link.up) {
            (Some(error), false) => error.clone(),
            _ => "it waited for its turn".to_owned(),
        };
        ClientError::Deadline { last }
    }
}

/// Whether the same request shall be sent again: nothing was done, or it is not known.
fn is_transient(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::RETRY | ErrorCode::UNAVAILABLE | ErrorCode::BUSY | ErrorCode::NOT_DURABLE)
}
