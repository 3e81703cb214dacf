//! One connection: one task owns the socket, reads packets in batches, writes what its queue holds.
//!
//! Bounds: the handshake must end within 5 s; a peer that is silent for three keep-alives is cut; while
//! the queue has no room for the answers to one batch nothing is read; a write that makes no progress
//! for 10 s cuts the peer.

use super::core::ConnectionId;
use super::faults::{self, Faults};
use super::relay::Relays;
use super::shared::Shared;
use bytes::BytesMut;
use futures_util::StreamExt;
use remeet_protocol::message::Goodbye;
use remeet_protocol::packet::{Header, Packet};
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, CodecError, ErrorCode, PacketCodec, ServerId};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

/// Packets handled in one step: enough to spread the cost of lock and write.
const BATCH: usize = 32;
/// Packets that one batch may be answered with (a page is at most 257), and events beside them.
const BATCH_ROOM: usize = BATCH * 257 + 2048;
/// Packets that may wait for a connection: at most 30 MB, only while the peer does not read.
pub(super) const QUEUE: usize = 2 * BATCH_ROOM;
/// Measured: 64 KiB move twice the packets of the default 8 KiB.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A write that does not go on for so long cuts the peer (SPEC B-3); sooner where a peer counts as dead sooner.
pub(super) const WRITE_MAX: Duration = Duration::from_secs(10);

/// What waits to be written.
// Nearly all are packets: a box each would be an allocation each.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A packet, not before a time.
    Packet(Option<Instant>, Packet),
    /// The end: everything before is written, then the socket closed.
    Close,
}

/// The server's end of a connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) queue: mpsc::Sender<Outgoing>,
    pub(super) cut: CancellationToken,
}

/// Serves a connection until either side ends it.
pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream, id: ConnectionId) {
    // Answers are small and awaited: they must not wait for more.
    let _ = stream.set_nodelay(true);
    let (queue, waiting) = mpsc::channel(QUEUE);
    let cut = CancellationToken::new();
    shared.connected(id, Link { queue: queue.clone(), cut: cut.clone() });
    let (read, write) = stream.into_split();
    let faults = shared.faults();
    tokio::select! {
        () = cut.cancelled() => {}
        () = receive(&shared, id, read, &queue, faults.clone()) => {}
        () = send(&shared, id, write, waiting, faults) => {}
    }
    shared.disconnected(id);
}

async fn receive(
    shared: &Arc<Shared>,
    id: ConnectionId,
    read: OwnedReadHalf,
    queue: &mpsc::Sender<Outgoing>,
    mut faults: watch::Receiver<Faults>,
) {
    let mut packets = FramedRead::with_capacity(read, PacketCodec::stream(), BUFFER_BYTES).ready_chunks(BATCH);
    let handshake_ends = Instant::now() + HANDSHAKE;
    let silence = shared.keep_alive() * 3;
    let mut welcome = false;
    // Who relays for nobody takes every packet for its own: an address is a hint (SPEC A-3).
    let own = shared.relays().then(|| Address::server(shared.server()));
    let mut relays = Relays::new(Arc::clone(shared), queue.clone());
    loop {
        if faults.wait_for(|faults| !faults.hang).await.is_err() {
            return;
        }
        let deadline = if welcome { Instant::now() + silence } else { handshake_ends };
        let Ok(batch) = timeout_at(deadline, packets.next()).await else {
            return shared.too_silent(welcome);
        };
        let Some(batch) = batch else { return };
        if faults.wait_for(|faults| !faults.hang).await.is_err() {
            return;
        }
        if queue.capacity() < BATCH_ROOM && queue.reserve_many(BATCH_ROOM).await.is_err() {
            return;
        }
        let (for_others, batch): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|incoming| matches!(incoming, Ok(Ok(packet)) if is_for_another(packet, own)));
        for packet in for_others.into_iter().flatten().flatten() {
            relays.pass(packet);
        }
        match shared.received(id, batch) {
            // Another relay's connection is for a server below this one, and says nothing to this one.
            Ok(now_welcome) => welcome = now_welcome || relays.has_begun(),
            Err(error) => return shared.bad_frame(id, &error),
        }
    }
}

/// Nobody's address, and one of another kind, is taken for this server's own.
fn is_for_another(packet: &Packet, own: Option<Address>) -> bool {
    own.is_some_and(|own| packet.destination != own && packet.destination.kind() == own.kind())
}

async fn send(
    shared: &Shared,
    id: ConnectionId,
    mut write: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<Outgoing>,
    mut faults: watch::Receiver<Faults>,
) {
    let mut batch = Vec::with_capacity(256);
    let mut bytes = BytesMut::with_capacity(2 * BUFFER_BYTES);
    loop {
        match timeout(shared.keep_alive(), waiting.recv_many(&mut batch, 256)).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(_) => {
                shared.step(|core| core.keep_alive(id));
                continue;
            }
        }
        let Ok(misbehaviour) = faults.wait_for(|faults| !faults.hang).await.map(|faults| faults.misbehaviour) else {
            return;
        };
        for outgoing in batch.drain(..) {
            let go_on = match outgoing {
                Outgoing::Close => Ok(false),
                Outgoing::Packet(due, packet) => {
                    if let Some(due) = due.filter(|due| *due > Instant::now()) {
                        if !flush(shared, &mut write, &mut bytes).await {
                            return;
                        }
                        sleep_until(due).await;
                    }
                    faults::write(&packet, misbehaviour, &mut bytes)
                }
            };
            let go_on = match go_on {
                Ok(go_on) => go_on,
                Err(error) => {
                    // A fault of the simulator itself: the peer must not wait for an answer that cannot come.
                    tracing::error!(%error, "an answer does not fit a packet; the connection is closed");
                    false
                }
            };
            if (bytes.len() >= BUFFER_BYTES || !go_on) && !flush(shared, &mut write, &mut bytes).await {
                return;
            }
            if !go_on {
                let _ = write.shutdown().await;
                return;
            }
        }
        if !flush(shared, &mut write, &mut bytes).await {
            return;
        }
    }
}

/// Writes what is encoded. False if the peer is gone or does not read.
async fn flush(shared: &Shared, write: &mut OwnedWriteHalf, bytes: &mut BytesMut) -> bool {
    if bytes.is_empty() {
        return true;
    }
    match timeout(WRITE_MAX.min(shared.keep_alive() * 3), write.write_all(bytes)).await {
        Ok(Ok(())) => {
            bytes.clear();
            true
        }
        Ok(Err(_)) => false,
        Err(_) => {
            shared.slow_reader();
            false
        }
    }
}

/// One connection too many: tells the peer to come later (SPEC H-8).
pub(super) async fn turn_away(mut stream: TcpStream, server: ServerId) {
    let goodbye = Goodbye { code: ErrorCode::BUSY, detail: Text::cut("too many connections"), retry_after_ms: 1000 };
    let packet = Packet {
        destination: Address::default(),
        source: Address::server(server),
        header: Header::default(),
        message: goodbye.into(),
    };
    let mut bytes = BytesMut::new();
    if packet.write(&mut bytes).is_ok() {
        let _ = timeout(HANDSHAKE, stream.write_all(&bytes)).await;
    }
}

/// Why a stream was closed, for the log.
pub(super) fn log_bad_frame(id: ConnectionId, error: &CodecError) {
    tracing::warn!(connection = id.0, %error, "connection closed: its packets cannot be trusted");
}
