//! Relaying for the servers below this one (SPEC L-1 to L-6).
//!
//! ```text
//!   scheduler ──TCP──> connection ──packets for others──> Relays ──TCP, one each──> server below
//!             <───────────── the connection's queue <──── task <───────────────────
//! ```
//!
//! Each connection of a scheduler has relays of its own, one for each server below that it has said `Hello` to: so that
//! server sees the scheduler as a peer of its own, and nothing need be remembered for the way back. One that does not
//! read, or is gone, ends its own relay and no other.

use super::connection::{BUFFER_BYTES, Outgoing, QUEUE, WRITE_MAX};
use super::shared::Shared;
use bytes::BytesMut;
use futures_util::StreamExt;
use remeet_protocol::message::{Failure, Goodbye, Message};
use remeet_protocol::packet::{HOPS_MAX, Header, Packet};
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, ErrorCode, Flags, PacketCodec, ServerId};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A server below that cannot be connected to within this long is not reached.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Packets that wait for a server below: twice what a scheduler has under way. More end its relay.
const WAITING_MAX: usize = 1_024;
/// Packets read from a server below at a time.
const BATCH: usize = 64;

/// A server below this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its id.
    pub id: ServerId,
    /// Where it listens.
    pub address: SocketAddr,
    /// The servers below it, at any depth.
    pub below: Vec<ServerId>,
}

impl std::str::FromStr for Child {
    type Err = String;

    /// `ID@ADDRESS` or `ID@ADDRESS/ID,ID`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no server below: write ID@IP:PORT, or ID@IP:PORT/ID,ID with those below it");
        let server = |text: &str| text.parse().map(ServerId).map_err(|_| wrong());
        let (id, rest) = text.split_once('@').ok_or_else(wrong)?;
        let (address, below) = rest.split_once('/').unwrap_or((rest, ""));
        Ok(Self {
            id: server(id)?,
            address: address.parse().map_err(|_| wrong())?,
            below: below.split(',').filter(|id| !id.is_empty()).map(server).collect::<Result<_, _>>()?,
        })
    }
}

/// Where to connect for each address below.
pub(super) fn routes(children: &[Child]) -> HashMap<Address, SocketAddr> {
    let ids = |child: &Child| std::iter::once(child.id).chain(child.below.clone()).collect::<Vec<_>>();
    let routes =
        children.iter().flat_map(|child| ids(child).into_iter().map(|id| (Address::server(id), child.address)));
    routes.collect()
}

/// The relays of one connection of a scheduler; they end with it.
pub(super) struct Relays {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    open: HashMap<Address, Open>,
    begun: bool,
}

struct Open {
    to: mpsc::Sender<Packet>,
    _cut: DropGuard,
}

impl Relays {
    pub(super) fn new(shared: Arc<Shared>, queue: mpsc::Sender<Outgoing>) -> Self {
        Self { shared, queue, open: HashMap::new(), begun: false }
    }

    /// Whether a conversation was relayed.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// A packet for another server.
    pub(super) fn pass(&mut self, packet: Packet) {
        let Some(address) = self.shared.route(packet.destination) else {
            return self.refuse(&packet, "no server of this address is below this one");
        };
        if packet.header.hops >= HOPS_MAX {
            return self.refuse(&packet, "it has passed as many relays as a packet may");
        }
        if self.shared.faults().borrow().relay_cut {
            return self.refuse(&packet, "the relay is cut");
        }
        let target = packet.destination;
        if matches!(packet.message, Message::Hello(_)) {
            // A Hello begins the conversation anew, whatever became of the one before.
            self.begun = true;
            let (to, waiting) = mpsc::channel(WAITING_MAX);
            let cut = CancellationToken::new();
            let relay =
                Relay { shared: Arc::clone(&self.shared), queue: self.queue.clone(), target, peer: packet.source };
            self.shared.tasks.spawn(relay.run(address, packet, waiting, cut.clone()));
            self.open.insert(target, Open { to, _cut: cut.drop_guard() });
            return;
        }
        let Some(open) = self.open.get(&target) else {
            return self.refuse(&packet, "there is no connection to it: say Hello first");
        };
        if let Err(error) = open.to.try_send(packet) {
            // It is gone, or reads too slowly: this relay ends, and no other waits for it.
            self.open.remove(&target);
            self.refuse(&error.into_inner(), "it is gone, or does not read");
        }
    }

    fn refuse(&self, packet: &Packet, detail: &str) {
        self.shared.lock().core.stats_mut().relays_refused += 1;
        if let Some(refusal) = refusal(packet, detail) {
            // With a queue that is full the peer reads too slowly, and is cut for that elsewhere.
            drop(self.queue.try_send(Outgoing::Packet(None, refusal)));
        }
    }
}

/// A request that does not reach its server is answered in that one's name.
fn refusal(packet: &Packet, detail: &str) -> Option<Packet> {
    let asks = packet.header.request != 0 && !packet.header.flags.has(Flags::ANSWER);
    asks.then(|| Packet {
        destination: packet.source,
        source: packet.destination,
        header: Header { flags: Flags::FINAL_ANSWER, request: packet.header.request, ..Header::default() },
        message: Failure::new(ErrorCode::UNREACHABLE, detail).into(),
    })
}

struct Relay {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    target: Address,
    peer: Address,
}

impl Relay {
    async fn run(self, address: SocketAddr, hello: Packet, waiting: mpsc::Receiver<Packet>, cut: CancellationToken) {
        let stream = match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            _ => {
                self.shared.lock().core.stats_mut().relays_refused += 1;
                if let Some(refusal) = refusal(&hello, "it cannot be connected to") {
                    // The scheduler's connection is gone: nobody waits.
                    let _ = self.queue.send(Outgoing::Packet(None, refusal)).await;
                }
                return;
            }
        };
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let mut faults = self.shared.faults();
        let why = tokio::select! {
            // The scheduler has begun anew, or left.
            () = cut.cancelled() => return,
            () = self.shared.stop.cancelled() => return,
            _ = faults.wait_for(|faults| faults.relay_cut) => "the relay is cut",
            why = self.down(write, hello, waiting) => why,
            why = self.up(read) => why,
        };
        let goodbye = Goodbye { code: ErrorCode::UNREACHABLE, detail: Text::cut(why), retry_after_ms: 0 };
        let _ = self.queue.send(Outgoing::Packet(None, self.in_its_name(goodbye.into()))).await;
    }

    fn in_its_name(&self, message: Message) -> Packet {
        Packet { destination: self.peer, source: self.target, header: Header::default(), message }
    }

    async fn down(
        &self,
        mut write: OwnedWriteHalf,
        hello: Packet,
        mut waiting: mpsc::Receiver<Packet>,
    ) -> &'static str {
        let mut batch = vec![hello];
        let mut bytes = BytesMut::with_capacity(BUFFER_BYTES);
        loop {
            for mut packet in batch.drain(..) {
                packet.header.hops += 1;
                // It was read from a packet, so it fits one.
                let _ = packet.write(&mut bytes);
                self.shared.lock().core.stats_mut().relayed += 1;
            }
            match timeout(WRITE_MAX, write.write_all(&bytes)).await {
                Ok(Ok(())) => bytes.clear(),
                Ok(Err(_)) => return "the connection to it is gone",
                Err(_) => return "it does not read",
            }
            if waiting.recv_many(&mut batch, BATCH).await == 0 {
                return "it does not read";
            }
        }
    }

    /// What comes back. It speaks only in its own name (rule 16).
    async fn up(&self, read: OwnedReadHalf) -> &'static str {
        let mut packets = FramedRead::with_capacity(read, PacketCodec::stream(), BUFFER_BYTES).ready_chunks(BATCH);
        while let Some(batch) = packets.next().await {
            // The server's own answers need the room more than those that it relays.
            if self.queue.capacity() < QUEUE / 2 && self.queue.reserve_many(QUEUE / 2).await.is_err() {
                return "the scheduler is gone";
            }
            for incoming in batch {
                let mut packet = match incoming {
                    Ok(Ok(packet)) if packet.source == self.target && packet.header.hops < HOPS_MAX => packet,
                    Ok(_) => {
                        self.shared.lock().core.stats_mut().relays_refused += 1;
                        continue;
                    }
                    Err(_) => return "its packets cannot be trusted",
                };
                packet.header.hops += 1;
                self.shared.lock().core.stats_mut().relayed += 1;
                let latency = self.shared.faults().borrow().latency;
                let due = (!latency.is_zero()).then(|| tokio::time::Instant::now() + latency);
                if self.queue.send(Outgoing::Packet(due, packet)).await.is_err() {
                    return "the scheduler is gone";
                }
            }
        }
        "the connection to it is gone"
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_server_below_is_read_with_those_below_it() {
        let plain: Child = "2@127.0.0.1:7502".parse().unwrap();
        assert_eq!((plain.id, plain.below.len()), (ServerId(2), 0));
        let deep: Child = "3@127.0.0.1:7503/4,5".parse().unwrap();
        assert_eq!(deep.below, [ServerId(4), ServerId(5)]);
        for wrong in ["", "3", "3@", "x@127.0.0.1:1", "3@127.0.0.1", "3@127.0.0.1:1/x"] {
            assert!(wrong.parse::<Child>().is_err(), "{wrong}");
        }
        let routes = routes(&[plain, deep.clone()]);
        assert_eq!(routes.len(), 4);
        assert_eq!(routes[&Address::server(ServerId(5))], deep.address);
    }
}
