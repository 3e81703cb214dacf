//! The port for meeting clients: accepts, and gives each connection a task of its own.

use super::connection::{Connection, Hall};
use super::snapshot::PAGES_AT_A_TIME;
use crate::config::Config;
use crate::link::{self, ClientLinkEvent, ConnectionId, LinkError, ListenCounters, ListenOptions, Listener};
use crate::scheduler::Handle;
use remeet_protocol::{Address, Incoming};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events of connections that wait to be handed to their tasks.
const EVENTS: usize = 256;
/// Batches of packets that wait for one connection's task. The task takes them at once; a client that has
/// sent this many more is flooding, and is cut: nobody else waits for it.
const BATCHES: usize = 64;

/// The open port.
pub struct Door {
    listener: Listener,
    events: mpsc::Receiver<ClientLinkEvent>,
    handshake_deadline: Duration,
}

/// Opens the port of `[clients]`.
///
/// # Errors
/// The address is not loopback, or cannot be bound.
pub async fn listen(config: &Config) -> Result<Door, LinkError> {
    let (sender, events) = mpsc::channel(EVENTS);
    let source = Address::scheduler(config.scheduler.domain);
    let options = ListenOptions {
        connections_max: usize::try_from(config.clients.connections_max).unwrap_or(usize::MAX),
        ..ListenOptions::new(config.clients.listen, source)
    };
    let handshake_deadline = options.handshake_deadline;
    Ok(Door { listener: link::listen(options, sender).await?, events, handshake_deadline })
}

impl Door {
    /// Where clients are let in.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }

    /// What the port counts.
    #[must_use]
    pub fn counters(&self) -> Arc<ListenCounters> {
        Arc::clone(&self.listener.counters)
    }

    /// Serves clients until `stop`; then tells each of them to come back. The port stays open: who connects
    /// meanwhile waits for the next call.
    pub async fn serve(&mut self, config: Arc<Config>, handle: Handle, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let hall = Arc::new(Hall {
            config,
            handle,
            stop,
            counters: self.counters(),
            handshake_deadline: self.handshake_deadline,
            turns: Arc::new(Semaphore::new(PAGES_AT_A_TIME)),
        });
        let mut inboxes: HashMap<ConnectionId, mpsc::Sender<Vec<Incoming>>> = HashMap::new();
        loop {
            let event = tokio::select! {
                () = hall.stop.cancelled() => break,
                event = self.events.recv() => event,
            };
            match event {
                None => break,
                Some(ClientLinkEvent::Connected { connection, peer, since, outbox, close }) => {
                    let (inbox, packets) = mpsc::channel(BATCHES);
                    inboxes.insert(connection, inbox);
                    let client = Connection::new(peer, outbox, close, since, Arc::clone(&hall));
                    tasks.spawn(client.run(packets));
                }
                Some(ClientLinkEvent::Packets(connection, packets)) => {
                    // A task that has ended takes no more; one whose client floods is ended by this.
                    if let Some(inbox) = inboxes.get(&connection)
                        && let Err(error) = inbox.try_send(packets)
                    {
                        // One that has ended was counted when it ended.
                        if matches!(error, mpsc::error::TrySendError::Full(_)) {
                            hall.handle.count("clients_cut");
                            tracing::warn!("a client floods: its connection is cut");
                        }
                        inboxes.remove(&connection);
                    }
                }
                // Why is logged and counted where the connection was read.
                Some(ClientLinkEvent::Closed { connection, .. }) => drop(inboxes.remove(&connection)),
            }
        }
        drop(inboxes);
        tasks.close();
        tasks.wait().await;
    }

    /// Closes the port.
    pub async fn close(self) {
        self.listener.close().await;
    }
}
