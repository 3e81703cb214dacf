//! Meeting clients' connections: a task each, a cap on their number, a deadline for the first packet,
//! and a bounded queue to each, so that a slow client harms nobody else.

use super::framing::{End, finish, framed, read, write_all};
use super::outbox::{Outbox, outbox};
use super::{LinkError, check_loopback};
use bytes::BytesMut;
use remeet_protocol::message::Goodbye;
use remeet_protocol::packet::Header;
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, ErrorCode, Incoming, Packet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Names a connection within the process's life; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// How to listen.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Loopback only; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Who listens: the source address of what is sent before anybody has introduced themselves.
    pub source: Address,
    /// Connections at a time. More are told `busy` and closed.
    pub connections_max: usize,
    /// From the connection to its first packet.
    pub handshake_deadline: Duration,
    /// A client that takes nothing for this long is cut.
    pub write_deadline: Duration,
    /// Packets queued to one client.
    pub queue_packets: usize,
    /// Ends listening and every connection.
    pub cancel: CancellationToken,
}

impl ListenOptions {
    /// With the defaults.
    #[must_use]
    pub fn new(address: SocketAddr, source: Address) -> Self {
        Self {
            address,
            source,
            // A domain's operators and integrators. Each that stops reading holds 0.55 MB of queue and 0.13 MB of
            // buffers until its write deadline: 700 MB if all of them do at once, and next to nothing otherwise.
            connections_max: 1_024,
            handshake_deadline: Duration::from_secs(5),
            write_deadline: Duration::from_secs(10),
            // 0.55 MB: a burst of events; a snapshot is sent in pieces, as there is room.
            queue_packets: 512,
            cancel: CancellationToken::new(),
        }
    }
}

/// What connections report. Every `Connected` is followed by one `Closed`, and nothing of that
/// connection comes after it.
#[derive(Debug)]
pub enum ClientLinkEvent {
    /// A client connected, and its first packet is there: it comes next.
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// Where it comes from.
        peer: SocketAddr,
        /// When it was accepted.
        since: Instant,
        /// Sends to it. [`Outbox::try_send`] says when the client is too slow. Once every clone is
        /// dropped, the connection is closed.
        outbox: Outbox,
        /// Closes it, after what is queued.
        close: CancellationToken,
    },
    /// Everything that was readable at once, in order, at most 256 packets.
    Packets(ConnectionId, Vec<Incoming>),
    /// The connection is gone.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: String,
        /// The client sent bytes that are no packets.
        broken: bool,
    },
}

/// What a listener counts.
#[derive(Debug, Default)]
pub struct ListenCounters {
    /// Connections there are now, those without a first packet included.
    pub open: AtomicUsize,
    /// Connections taken.
    pub accepted: AtomicU64,
    /// Connections refused because of the cap.
    pub refused: AtomicU64,
    /// Connections closed because no packet came in time; whoever serves them counts those that fall silent later.
    pub silent: AtomicU64,
    /// Connections closed because their bytes were no packets.
    pub broken: AtomicU64,
    /// Connections that ended inside a packet.
    pub cut: AtomicU64,
}

/// A listening socket with its connections. Dropping it ends them.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it counts.
    pub counters: Arc<ListenCounters>,
    cancel: tokio_util::sync::DropGuard,
    tasks: TaskTracker,
}

impl Listener {
    /// Ends listening and every connection, after what is queued to each.
    pub async fn close(self) {
        drop(self.cancel);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Listens.
pub async fn listen(options: ListenOptions, events: mpsc::Sender<ClientLinkEvent>) -> Result<Listener, LinkError> {
    check_loopback(options.address)?;
    let bind = |source| LinkError::Bind { address: options.address, source };
    let socket = TcpListener::bind(options.address).await.map_err(bind)?;
    let address = socket.local_addr().map_err(bind)?;
    let cancel = options.cancel.child_token();
    let tasks = TaskTracker::new();
    let counters = Arc::new(ListenCounters::default());
    let listener = Listener {
        address,
        counters: Arc::clone(&counters),
        cancel: cancel.clone().drop_guard(),
        tasks: tasks.clone(),
    };
    let accepting = Accepting { options, events, cancel: cancel.clone(), tasks: tasks.clone(), counters };
    tasks.spawn(async move {
        // Between two connections nothing is half done.
        cancel.run_until_cancelled_owned(accepting.run(socket)).await;
    });
    Ok(listener)
}

/// After an error of `accept`, mostly a lack of file descriptors: others may be closed meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The last words of a connection that is closed on purpose.
const FINISH_DEADLINE: Duration = Duration::from_millis(500);
/// What a refused client is asked to wait.
const RETRY_AFTER_MS: u32 = 1_000;

struct Accepting {
    options: ListenOptions,
    events: mpsc::Sender<ClientLinkEvent>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    counters: Arc<ListenCounters>,
}

impl Accepting {
    async fn run(self, socket: TcpListener) {
        let mut number = 0;
        loop {
            let (stream, peer) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a client's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // One task accepts, so between the check and the count none is added.
            if self.counters.open.load(Ordering::Relaxed) >= self.options.connections_max {
                let refused = self.counters.refused.fetch_add(1, Ordering::Relaxed) + 1;
                // A crowd that dials again and again must not fill the log.
                if refused.is_power_of_two() {
                    let most = self.options.connections_max;
                    tracing::warn!(%peer, refused, "there are {most} client connections: this one is told to come back");
                }
                refuse(&stream, self.options.source);
                continue;
            }
            number += 1;
            self.counters.accepted.fetch_add(1, Ordering::Relaxed);
            self.counters.open.fetch_add(1, Ordering::Relaxed);
            let connection = Connection {
                id: ConnectionId(number),
                peer,
                options: self.options.clone(),
                events: self.events.clone(),
                cancel: self.cancel.child_token(),
                ending: self.cancel.clone(),
                counters: Opened(Arc::clone(&self.counters)),
            };
            self.tasks.spawn(connection.run(stream));
        }
    }
}

/// Tells a client that there are too many, as far as its socket takes it without waiting.
fn refuse(stream: &TcpStream, source: Address) {
    let goodbye =
        Goodbye { code: ErrorCode::BUSY, detail: Text::cut("too many connections"), retry_after_ms: RETRY_AFTER_MS };
    let packet = Packet { destination: Address::default(), source, header: Header::default(), message: goodbye.into() };
    let mut bytes = BytesMut::new();
    if packet.write(&mut bytes).is_ok() {
        // Nothing is owed to a refused client beyond the attempt.
        let _written = stream.try_write(&bytes);
    }
}

/// Counts a connection as open for as long as it lives, even through a panic of its task.
struct Opened(Arc<ListenCounters>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Connection {
    id: ConnectionId,
    peer: SocketAddr,
    options: ListenOptions,
    events: mpsc::Sender<ClientLinkEvent>,
    /// This connection's end.
    cancel: CancellationToken,
    /// The listener's end.
    ending: CancellationToken,
    counters: Opened,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let (connection, since) = (self.id, Instant::now());
        let (mut sink, mut batches) = framed(stream);
        let first = tokio::select! {
            first = tokio::time::timeout(self.options.handshake_deadline, read(&mut batches)) => first,
            () = self.cancel.cancelled() => return,
        };
        let Ok(mut batch) = first else {
            self.counters.0.silent.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(peer = %self.peer, "a client sent no packet in time: its connection is closed");
            return;
        };
        if batch.packets.is_empty() {
            self.count(batch.end.as_ref());
            return;
        }
        let (outbox, mut outgoing) = outbox(self.options.queue_packets);
        let event =
            ClientLinkEvent::Connected { connection, peer: self.peer, since, outbox, close: self.cancel.clone() };
        if !self.tell(event).await {
            return;
        }
        let events = &self.events;
        // Reading and writing go on side by side: a full event queue must not keep packets from leaving.
        let reading = async {
            loop {
                if !batch.packets.is_empty() {
                    let packets = std::mem::take(&mut batch.packets);
                    if events.send(ClientLinkEvent::Packets(connection, packets)).await.is_err() {
                        return End::Closed("nobody listens to this connection any more".into());
                    }
                }
                if let Some(end) = batch.end.take() {
                    return end;
                }
                batch = read(&mut batches).await;
            }
        };
        let end = tokio::select! {
            end = reading => Some(end),
            end = write_all(&mut sink, &mut outgoing, self.options.write_deadline, |_| true) => Some(end),
            () = self.cancel.cancelled() => None,
        };
        let end = match end {
            Some(end) => end,
            None => {
                finish(&mut sink, &mut outgoing, FINISH_DEADLINE).await;
                End::Closed("closed by this side".into())
            }
        };
        self.count(Some(&end));
        let (reason, broken) = match end {
            End::Closed(reason) | End::Cut(reason) => (reason, false),
            End::Broken(reason) => (reason, true),
        };
        self.tell(ClientLinkEvent::Closed { connection, reason, broken }).await;
    }

    /// False if nobody listens. While the listener ends, nobody may be reading events any more: then what
    /// finds no room is lost.
    async fn tell(&self, event: ClientLinkEvent) -> bool {
        tokio::select! {
            biased;
            told = self.events.send(event) => told.is_ok(),
            () = self.ending.cancelled() => false,
        }
    }

    fn count(&self, end: Option<&End>) {
        match end {
            Some(End::Broken(reason)) => {
                self.counters.0.broken.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer = %self.peer, "a client sent bytes that are no packet, its connection is closed: {reason}");
            }
            Some(End::Cut(reason)) => {
                self.counters.0.cut.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer = %self.peer, "a client's connection was cut: {reason}");
            }
            Some(End::Closed(_)) | None => {}
        }
    }
}
