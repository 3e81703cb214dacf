//! What dialled and accepted connections share: one task owns the socket, reads what is there at once,
//! writes batches with one flush, and gives up a peer that does not read.

use super::outbox::Outgoing;
use futures_util::stream::{ReadyChunks, SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use remeet_protocol::{CodecError, Incoming, Packet, PacketCodec};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

/// Buffers of a connection, each way. With the default of 8 KiB half the packet rate (measured).
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Packets in one batch: more would only make its receiver's turn longer.
pub(super) const BATCH_MAX: usize = 256;

pub(super) type Sink = SplitSink<Framed<TcpStream, PacketCodec>, Packet>;
pub(super) type Batches = ReadyChunks<SplitStream<Framed<TcpStream, PacketCodec>>>;

/// Frames a stream.
pub(super) fn framed(stream: TcpStream) -> (Sink, Batches) {
    // Answers are small and awaited. Without it each would wait for its predecessor's acknowledgement;
    // a failure costs only that.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch off Nagle's algorithm");
    }
    let mut framed = Framed::with_capacity(stream, PacketCodec::stream(), BUFFER_BYTES);
    framed.set_backpressure_boundary(BUFFER_BYTES);
    framed.write_buffer_mut().reserve(BUFFER_BYTES);
    let (sink, stream) = framed.split();
    (sink, stream.ready_chunks(BATCH_MAX))
}

/// What was readable at once.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) packets: Vec<Incoming>,
    /// The connection's end, if it came after these packets.
    pub(super) end: Option<End>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The peer sent bytes that are no packets.
    Broken(String),
    /// The stream ended inside a packet. A crash cuts a stream anywhere: the peer's end, not its fault.
    Cut(String),
    /// Closed, or given up.
    Closed(String),
}

impl End {
    fn from_error(error: CodecError) -> Self {
        match error {
            CodecError::Io(error) => End::Closed(format!("the connection failed: {error}")),
            CodecError::CutStream(_) => End::Cut(error.to_string()),
            CodecError::Crc { .. }
            | CodecError::Version(_)
            | CodecError::BodyTooLong(_)
            | CodecError::DatagramLength { .. }
            | CodecError::Send(_) => End::Broken(error.to_string()),
        }
    }
}

/// Reads everything that is there, at least one packet or the end. Cancel-safe.
pub(super) async fn read(batches: &mut Batches) -> Batch {
    let Some(chunk) = batches.next().await else {
        return Batch { packets: Vec::new(), end: Some(End::Closed("the peer closed the connection".into())) };
    };
    let mut packets = Vec::with_capacity(chunk.len());
    for item in chunk {
        match item {
            Ok(incoming) => packets.push(incoming),
            Err(error) => return Batch { packets, end: Some(End::from_error(error)) },
        }
    }
    Batch { packets, end: None }
}

/// Writes batches until the queue's senders are gone or the connection fails. Batches that are queued
/// already go with one flush. `begins` may hold back what belongs to an earlier connection.
pub(super) async fn write_all(
    sink: &mut Sink,
    outgoing: &mut Outgoing,
    deadline: Duration,
    mut begins: impl FnMut(&[Packet]) -> bool,
) -> End {
    while let Some(first) = outgoing.next().await {
        let mut some = Some(first);
        let mut packets = Vec::new();
        while let Some(batch) = some {
            if begins(&batch) {
                packets.extend(batch);
            }
            some = if packets.len() < BATCH_MAX { outgoing.ready() } else { None };
        }
        let written = tokio::time::timeout(deadline, write(sink, packets)).await;
        outgoing.written();
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::from_error(error),
            Err(_) => return End::Closed(format!("the peer did not read for {deadline:?}")),
        }
    }
    End::Closed("nobody sends on this connection any more".into())
}

/// Feeds packets, then flushes once. Dropped half-way, it leaves whole packets behind in the buffer.
pub(super) async fn write(sink: &mut Sink, packets: Vec<Packet>) -> Result<(), CodecError> {
    for packet in packets {
        match sink.feed(packet).await {
            // This side made a message that is too long. The others are innocent, and the buffer is as it was.
            Err(CodecError::Send(error)) => tracing::error!(%error, "a packet was not sent"),
            other => other?,
        }
    }
    sink.flush().await
}

/// The last words: what is queued is written within `deadline`, as far as the peer takes it, then the
/// stream is closed.
pub(super) async fn finish(sink: &mut Sink, outgoing: &mut Outgoing, deadline: Duration) {
    let mut packets = Vec::new();
    while let Some(batch) = outgoing.ready() {
        packets.extend(batch);
    }
    outgoing.written();
    let last = async {
        write(sink, packets).await?;
        sink.close().await
    };
    // Nothing is left to be done about an error here: the connection ends in any case.
    let _ended = tokio::time::timeout(deadline, last).await;
}
