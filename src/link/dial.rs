//! The link to one server: one task that dials, reads, writes, and dials again.
//!
//! ```text
//!            +--------- pause (50 ms .. 2 s, jitter) <--------+
//!            v                                                |
//!   dial --ok--> Connected --> Packets* --> [Broken] --> Disconnected
//!     '----- failed: Disconnected ----------------------------^
//! ```

use super::backoff::Backoff;
use super::framing::{Batches, End, Sink, finish, framed, read, write_all};
use super::outbox::{Outbox, Outgoing, SendError, outbox};
use super::{LinkError, check_loopback};
use remeet_protocol::{Address, Incoming, Message, Packet, ServerId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How to reach one server.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Names the link in events.
    pub server: ServerId,
    /// Loopback only.
    pub address: SocketAddr,
    /// A dial that takes longer is given up.
    pub connect_timeout: Duration,
    /// The first pause before dialling again.
    pub redial_min: Duration,
    /// The longest pause; also how long a link must have lasted for the pauses to begin anew.
    pub redial_max: Duration,
    /// Seed of the pauses' jitter: another for each server.
    pub seed: u64,
    /// A peer that takes nothing for this long is cut.
    pub write_deadline: Duration,
    /// Packets queued to the server.
    pub queue_packets: usize,
    /// Ends the task.
    pub cancel: CancellationToken,
}

impl LinkOptions {
    /// With the defaults.
    #[must_use]
    pub fn new(server: ServerId, address: SocketAddr) -> Self {
        Self {
            server,
            address,
            // On one machine a dial is answered at once or hangs on a full backlog.
            connect_timeout: Duration::from_secs(2),
            // A restarted scheduler is to be in control within 3 s, so the first pauses are short ...
            redial_min: Duration::from_millis(50),
            // ... and a server that comes back late is found within 2 s, at a cost of one SYN a second.
            redial_max: Duration::from_secs(2),
            seed: server.0.into(),
            // As long as the silence that a session bears.
            write_deadline: Duration::from_secs(5),
            // A window of requests, their answers and acknowledgements come nowhere near; 1.1 MB.
            queue_packets: 1_024,
            cancel: CancellationToken::new(),
        }
    }
}

/// What a link reports.
#[derive(Debug)]
pub enum LinkEvent {
    /// The connection is there. What was queued for an earlier one is discarded.
    Connected,
    /// Everything that was readable at once, in order, at most 256 packets.
    Packets(Vec<Incoming>),
    /// The bytes are no packets: the connection is closed, `Disconnected` follows.
    Broken(String),
    /// The connection is gone, or a dial failed. The link dials again by itself.
    Disconnected(String),
}

#[derive(Debug)]
enum Order {
    Close { reason: String, pause_min: Duration },
    RedialNow,
}

/// Commands a link. Dropping it ends the link's task.
#[derive(Debug)]
pub struct LinkHandle {
    outbox: Outbox,
    orders: mpsc::Sender<Order>,
    cancel: DropGuard,
    task: JoinHandle<()>,
    cut: Arc<AtomicU64>,
}

impl LinkHandle {
    /// Connections that ended inside a packet, so far.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Queues packets without waiting. Those of a new connection must begin with `Hello`: until one comes,
    /// packets are taken for an earlier connection's and discarded.
    pub fn try_send(&self, packets: Vec<Packet>) -> Result<(), SendError> {
        self.outbox.try_send(packets)
    }

    /// Queues packets once there is room.
    pub async fn send(&self, packets: Vec<Packet>) -> Result<(), SendError> {
        self.outbox.send(packets).await
    }

    /// Closes the connection, after what is queued; dials again after at least `pause_min` and a random
    /// part of up to a half of it. Does nothing while the link is down.
    pub fn close_link(&self, reason: &str, pause_min: Duration) {
        // Full: as many orders are waiting already.
        let _full = self.orders.try_send(Order::Close { reason: reason.to_owned(), pause_min });
    }

    /// Dials at once if the link is down.
    pub fn redial_now(&self) {
        // Full: as many orders are waiting already.
        let _full = self.orders.try_send(Order::RedialNow);
    }

    /// Ends the link, after what is queued.
    pub async fn close(self) {
        drop(self.cancel);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a link's task failed");
        }
    }
}

/// Starts the link's task. It reports to `events`; when that is full, it stops reading.
pub fn spawn(options: LinkOptions, events: mpsc::Sender<(ServerId, LinkEvent)>) -> Result<LinkHandle, LinkError> {
    check_loopback(options.address)?;
    let (outbox, outgoing) = outbox(options.queue_packets);
    // Room for one of each kind and a spare.
    let (orders, inbox) = mpsc::channel(4);
    let cancel = options.cancel.child_token();
    let guard = cancel.clone().drop_guard();
    let backoff = Backoff::new(options.redial_min, options.redial_max, options.seed);
    let cut = Arc::new(AtomicU64::new(0));
    let link = Link {
        options,
        events,
        outgoing,
        orders: inbox,
        cancel,
        backoff,
        pause_min: Duration::ZERO,
        cut: Arc::clone(&cut),
    };
    let task = tokio::spawn(link.run());
    Ok(LinkHandle { outbox, orders, cancel: guard, task, cut })
}

/// The last words of a connection that is closed on purpose.
const FINISH_DEADLINE: Duration = Duration::from_millis(500);

struct Link {
    options: LinkOptions,
    events: mpsc::Sender<(ServerId, LinkEvent)>,
    outgoing: Outgoing,
    orders: mpsc::Receiver<Order>,
    cancel: CancellationToken,
    backoff: Backoff,
    pause_min: Duration,
    cut: Arc<AtomicU64>,
}

impl Link {
    async fn run(mut self) {
        while self.dialled().await {}
    }

    /// One connection and the pause after it. False once the link is to end.
    async fn dialled(&mut self) -> bool {
        let address = self.options.address;
        let dial = tokio::time::timeout(self.options.connect_timeout, TcpStream::connect(address));
        let reason = match self.cancel.run_until_cancelled(dial).await {
            None => return false,
            Some(Ok(Ok(stream))) => match self.connected(stream).await {
                Some(reason) => reason,
                None => return false,
            },
            Some(Ok(Err(error))) => format!("cannot connect to {address}: {error}"),
            Some(Err(_)) => {
                format!("cannot connect to {address}: no answer within {:?}", self.options.connect_timeout)
            }
        };
        tracing::debug!(server = %self.options.server, %reason, "link down");
        self.tell(LinkEvent::Disconnected(reason)).await && self.pause().await
    }

    /// Serves a connection to its end: why it ended, or none once the link is to end.
    async fn connected(&mut self, stream: TcpStream) -> Option<String> {
        self.outgoing.clear();
        while self.orders.try_recv().is_ok() {}
        let (mut sink, mut batches) = framed(stream);
        let begun = Instant::now();
        if !self.tell(LinkEvent::Connected).await {
            return None;
        }
        let end = self.serve(&mut sink, &mut batches).await;
        self.outgoing.clear();
        if begun.elapsed() >= self.options.redial_max {
            self.backoff.reset();
        }
        let reason = match end? {
            End::Closed(reason) => reason,
            End::Cut(reason) => {
                self.cut.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(server = %self.options.server, "{reason}");
                reason
            }
            End::Broken(reason) => {
                if !self.tell(LinkEvent::Broken(reason.clone())).await {
                    return None;
                }
                reason
            }
        };
        Some(reason)
    }

    async fn serve(&mut self, sink: &mut Sink, batches: &mut Batches) -> Option<End> {
        let server = self.options.server;
        let events = &self.events;
        // Reading and writing go on side by side: a full event queue must not keep packets from leaving.
        let reading = async {
            loop {
                let batch = read(batches).await;
                if !batch.packets.is_empty() && events.send((server, LinkEvent::Packets(batch.packets))).await.is_err()
                {
                    return None;
                }
                if batch.end.is_some() {
                    return batch.end;
                }
            }
        };
        let mut begun = false;
        let own = Address::server(self.options.server);
        // One for a server behind this one begins nothing: it may be an earlier connection's.
        let begins = |batch: &[Packet]| {
            let hello = |packet: &Packet| matches!(packet.message, Message::Hello(_)) && packet.destination == own;
            begun |= batch.first().is_some_and(hello);
            begun
        };
        let end = tokio::select! {
            end = reading => return end,
            end = write_all(sink, &mut self.outgoing, self.options.write_deadline, begins) => return Some(end),
            end = closed(&mut self.orders) => end,
            () = self.cancel.cancelled() => None,
        };
        finish(sink, &mut self.outgoing, FINISH_DEADLINE).await;
        let (reason, pause_min) = end?;
        self.pause_min = pause_min;
        Some(End::Closed(reason))
    }

    async fn tell(&self, event: LinkEvent) -> bool {
        let sending = self.events.send((self.options.server, event));
        self.cancel.run_until_cancelled(sending).await.is_some_and(|sent| sent.is_ok())
    }

    /// Waits before the next dial. False once the link is to end.
    async fn pause(&mut self) -> bool {
        let pause = self.backoff.pause(std::mem::take(&mut self.pause_min));
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return true,
                () = self.cancel.cancelled() => return false,
                order = self.orders.recv() => match order {
                    Some(Order::RedialNow) => return true,
                    Some(Order::Close { .. }) => {}
                    None => return false,
                },
            }
        }
    }
}

/// Waits for an order to close; none if the handle is gone.
async fn closed(orders: &mut mpsc::Receiver<Order>) -> Option<(String, Duration)> {
    loop {
        match orders.recv().await? {
            Order::Close { reason, pause_min } => return Some((reason, pause_min)),
            Order::RedialNow => {}
        }
    }
}
