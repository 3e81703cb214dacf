//! What the tasks of a server share: the core behind its lock, the connections' queues, the state file,
//! the faults that are on.
//!
//! A step locks the state, gives the core its input, writes the journal, hands the outputs to the
//! connections' queues and unlocks; the lock is never held over an await, and the order of packets on
//! each connection is the core's. The journal is written inside the step: to the page cache, which takes
//! microseconds; only an attach waits for the disk. That blocks the runtime for so long, which a
//! simulated server may do, and it makes *persist, then send* plain to see.

use super::connection::{self, Link, Outgoing};
use super::control::RestartMode;
use super::core::{ConnectionId, Core, Output};
use super::faults::Faults;
use super::persistence::{StateError, StateFile};
use super::server::Error;
use remeet_protocol::{Address, BootId, CodecError, Incoming, ServerId};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the tasks of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    faults: watch::Sender<Faults>,
    next_connection: AtomicU64,
    seed: u64,
    keep_alive: Duration,
    routes: HashMap<Address, SocketAddr>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) core: Core,
    links: HashMap<ConnectionId, Link>,
    pub(super) file: Option<StateFile>,
    pub(super) failed: Option<StateError>,
}

impl Shared {
    pub(super) fn new(
        core: Core,
        file: Option<StateFile>,
        faults: Faults,
        keep_alive: Duration,
        seed: u64,
        routes: HashMap<Address, SocketAddr>,
    ) -> Self {
        Self {
            state: Mutex::new(State { core, links: HashMap::new(), file, failed: None }),
            faults: watch::Sender::new(faults),
            next_connection: AtomicU64::new(1),
            seed,
            keep_alive,
            routes,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside a step is a fault of the simulator; the other tasks still answer.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of the core: input, journal, outputs.
    pub(super) fn step<R>(&self, input: impl FnOnce(&mut Core) -> R) -> R {
        let mut state = self.lock();
        let result = input(&mut state.core);
        self.settle(&mut state);
        result
    }

    fn settle(&self, state: &mut State) {
        if let Err(error) = persist(state) {
            tracing::error!(%error, "the state cannot be kept: the server stops and answers nothing more");
            state.failed = Some(error);
            state.core.take_outputs();
            state.links.clear();
            self.stop.cancel();
            return;
        }
        let outputs = state.core.take_outputs();
        if outputs.is_empty() {
            return;
        }
        let latency = self.faults.borrow().latency;
        let due = (!latency.is_zero()).then(|| Instant::now() + latency);
        for output in outputs {
            let (id, outgoing) = match output {
                Output::Send(id, packet) => (id, Outgoing::Packet(due, packet)),
                Output::Close(id) => (id, Outgoing::Close),
            };
            let Some(link) = state.links.get(&id) else { continue };
            if link.queue.try_send(outgoing).is_err() {
                // Its queue is full: it reads too slowly. Events wait in the core, answers are asked again.
                state.core.stats_mut().slow_readers += 1;
                if let Some(link) = state.links.remove(&id) {
                    link.cut.cancel();
                }
            }
        }
    }

    pub(super) fn connected(&self, id: ConnectionId, link: Link) {
        let mut state = self.lock();
        state.links.insert(id, link);
        state.core.connect(id);
    }

    pub(super) fn disconnected(&self, id: ConnectionId) {
        self.lock().links.remove(&id);
        self.step(|core| core.disconnect(id));
    }

    /// Handles a batch; answers whether the connection is past its handshake.
    pub(super) fn received(
        &self,
        id: ConnectionId,
        batch: Vec<Result<Incoming, CodecError>>,
    ) -> Result<bool, CodecError> {
        let now_ms = now_ms();
        self.step(|core| {
            for incoming in batch {
                match incoming? {
                    Ok(packet) => core.receive(now_ms, id, packet),
                    Err(rejected) => core.reject(id, &rejected),
                }
            }
            Ok(core.is_welcome(id))
        })
    }

    pub(super) fn bad_frame(&self, id: ConnectionId, error: &CodecError) {
        // A peer that went away in mid-packet is no bad peer.
        if !matches!(error, CodecError::Io(_)) {
            self.lock().core.stats_mut().bad_frames += 1;
            connection::log_bad_frame(id, error);
        }
    }

    pub(super) fn too_silent(&self, welcome: bool) {
        if !welcome {
            self.lock().core.stats_mut().handshakes_refused += 1;
        }
    }

    pub(super) fn slow_reader(&self) {
        self.lock().core.stats_mut().slow_readers += 1;
    }

    /// After this long without a packet to a peer it is asked whether it is there; after three times as
    /// long without one from it, it is gone (SPEC H-6).
    pub(super) fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    /// Whether there are servers below this one.
    pub(super) fn relays(&self) -> bool {
        !self.routes.is_empty()
    }

    /// Where to connect for a server below this one.
    pub(super) fn route(&self, to: Address) -> Option<SocketAddr> {
        self.routes.get(&to).copied()
    }

    pub(super) fn server(&self) -> ServerId {
        self.lock().core.server()
    }

    pub(super) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn faults(&self) -> watch::Receiver<Faults> {
        self.faults.subscribe()
    }

    pub(super) fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    pub(super) fn cut_links(&self) {
        for (_, link) in self.lock().links.drain() {
            link.cut.cancel();
        }
    }

    pub(super) fn links(&self) -> usize {
        self.lock().links.len()
    }

    /// Restarts the server inside its process: every connection ends; with the same boot id the state
    /// comes back the way it would after the process's end.
    pub(super) async fn restart(&self, mode: RestartMode, down: Duration) -> Result<BootId, Error> {
        self.set_faults(|faults| faults.down = true);
        self.cut_links();
        tokio::time::sleep(down).await;
        let result = self.reborn(mode);
        self.set_faults(|faults| faults.down = false);
        result
    }

    fn reborn(&self, mode: RestartMode) -> Result<BootId, Error> {
        let mut state = self.lock();
        // Connections that came between the cut and the restart knew the life before.
        for (_, link) in state.links.drain() {
            link.cut.cancel();
        }
        let mut core = match mode {
            RestartMode::SameBoot => {
                let kept = match &state.file {
                    Some(file) => file.read()?,
                    None => None,
                };
                let kept = kept.unwrap_or_else(|| state.core.snapshot().to_vec());
                let path = PathBuf::from("the state");
                Core::restore(state.core.settings.clone(), self.seed, &kept)
                    .map_err(|source| Error::Restore { path, source })?
            }
            RestartMode::NewBoot => state.core.lost_tables(new_boot(), self.seed),
        };
        core.inherit(&state.core);
        if let Some(file) = &mut state.file {
            file.replace(&core.snapshot())?;
        }
        state.core = core;
        Ok(state.core.boot())
    }
}

fn persist(state: &mut State) -> Result<(), StateError> {
    let (entries, sync) = state.core.take_journal();
    let Some(file) = &mut state.file else { return Ok(()) };
    if !entries.is_empty() {
        file.append(&entries, sync)?;
    }
    if file.wants_snapshot() {
        file.replace(&state.core.snapshot())?;
    }
    Ok(())
}

/// A boot id that nobody else has, whatever the seed is.
pub(super) fn new_boot() -> BootId {
    BootId::from_bytes(rand::random())
}

/// Milliseconds since 1970 UTC: written into rows, never decided by.
#[allow(clippy::disallowed_methods, reason = "the simulator's driver is where its clock is read")]
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
