//! The bounded queue of packets to one peer. Its bound counts packets, so that it bounds memory.

use crate::sync::{Arc, Semaphore, TryAcquireError, mpsc};
use remeet_protocol::Packet;

/// Puts packets into the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    // Unbounded by itself: every batch holds at least one of the room's permits until it is written.
    batches: mpsc::UnboundedSender<Batch>,
    room: Arc<Semaphore>,
    room_max: usize,
}

/// Why packets could not be queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue is full: the peer reads too slowly. The packets come back.
    #[error("the queue to the peer is full ({} packets were to be added)", .0.len())]
    Full(Vec<Packet>),
    /// The connection, or the link's task, has ended.
    #[error("the connection has ended")]
    Closed,
}

#[derive(Debug)]
struct Batch {
    packets: Vec<Packet>,
    permits: u32,
}

/// Takes packets out of the queue.
#[derive(Debug)]
pub(super) struct Outgoing {
    batches: mpsc::UnboundedReceiver<Batch>,
    room: Arc<Semaphore>,
    /// Of batches taken out and not yet written.
    permits: usize,
}

/// A queue for at most `packets_max` packets; a single larger batch is taken when the queue is empty.
pub(super) fn outbox(packets_max: usize) -> (Outbox, Outgoing) {
    let room_max = packets_max.clamp(1, Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(room_max));
    let (sender, batches) = mpsc::unbounded_channel();
    (Outbox { batches: sender, room: Arc::clone(&room), room_max }, Outgoing { batches, room, permits: 0 })
}

impl Outbox {
    /// Queues packets, in order and all or none, without waiting.
    pub fn try_send(&self, packets: Vec<Packet>) -> Result<(), SendError> {
        if packets.is_empty() {
            return Ok(());
        }
        let permits = self.permits(&packets);
        match self.room.try_acquire_many(permits) {
            Ok(permit) => {
                permit.forget();
                self.batches.send(Batch { packets, permits }).map_err(|_| SendError::Closed)
            }
            Err(TryAcquireError::NoPermits) => Err(SendError::Full(packets)),
            Err(TryAcquireError::Closed) => Err(SendError::Closed),
        }
    }

    /// Queues packets once there is room: for whoever has much to send and can wait.
    pub async fn send(&self, packets: Vec<Packet>) -> Result<(), SendError> {
        if packets.is_empty() {
            return Ok(());
        }
        let permits = self.permits(&packets);
        let permit = self.room.acquire_many(permits).await.map_err(|_| SendError::Closed)?;
        permit.forget();
        self.batches.send(Batch { packets, permits }).map_err(|_| SendError::Closed)
    }

    /// Packets that fit now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room.available_permits()
    }

    fn permits(&self, packets: &[Packet]) -> u32 {
        u32::try_from(packets.len().min(self.room_max)).unwrap_or(u32::MAX)
    }
}

impl Outgoing {
    /// The next batch; none once every [`Outbox`] is gone. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Vec<Packet>> {
        let batch = self.batches.recv().await?;
        self.permits += batch.permits as usize;
        Some(batch.packets)
    }

    /// A batch that is there already.
    pub(super) fn ready(&mut self) -> Option<Vec<Packet>> {
        let batch = self.batches.try_recv().ok()?;
        self.permits += batch.permits as usize;
        Some(batch.packets)
    }

    /// What was taken out is written, or given up: there is room for as much.
    pub(super) fn written(&mut self) {
        self.room.add_permits(std::mem::take(&mut self.permits));
    }

    /// Forgets what is queued.
    pub(super) fn clear(&mut self) {
        while self.ready().is_some() {}
        self.written();
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // Wakes who waits for room.
        self.room.close();
    }
}
