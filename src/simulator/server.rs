//! The driver of a simulated server: listener, steps of the core, restarts, state file.
//!
//! A step locks the state, gives the core its input, writes the journal, hands the outputs to the
//! connections' queues and unlocks; the lock is never held over an await, and the order of packets on
//! each connection is the core's. The journal is written inside the step: to the page cache, which takes
//! microseconds; only an attach waits for the disk. That blocks the runtime for so long, which a
//! simulated server may do, and it makes *persist, then send* plain to see.

use super::client::ControlError;
use super::connection::{self, Link, Outgoing};
use super::control::{self, Request, RestartMode};
use super::core::{ConnectionId, Core, Output, RestoreError, Settings};
use super::faults::Faults;
use super::persistence::{StateError, StateFile};
use super::{Dump, Options, Stats};
use remeet_protocol::wire::{Text, TextTooLong};
use remeet_protocol::{BootId, CodecError, DomainId, ServerId};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once: schedulers, standbys, and room for dead ones that have not timed out yet.
const CONNECTIONS_MAX: usize = 64;
/// How often the server's own life moves on.
const LIFE_TICK: Duration = Duration::from_millis(100);

/// Why a simulated server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not this machine's own.
    #[error("{0} is not a loopback address: the simulator speaks plaintext and listens on loopback only")]
    NotLoopback(SocketAddr),
    /// The socket could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The name is too long.
    #[error("the server's name: {0}")]
    Name(#[from] TextTooLong),
    /// The state file failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The state file does not fit.
    #[error("{path}: {source}")]
    Restore {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: RestoreError,
    },
}

/// Starts simulated servers inside this process.
#[derive(Debug)]
pub struct Simulator;

/// A simulated server that runs. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// Runs a simulated server until `stop`. Prints one JSON line when it is ready:
/// `{"listening":"127.0.0.1:4711","control":"/path","server":1,"boot":".."}`.
///
/// # Errors
/// It cannot start, or its state file fails while it runs.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let control = options.control.clone();
    let server = options.server_id;
    let running = Simulator::spawn(options).await?;
    let boot = running.shared.lock().core.boot();
    println!("{}", json!({"listening": running.address, "control": control, "server": server, "boot": boot}));
    tokio::select! {
        () = stop.cancelled() => {}
        () = running.shared.stop.cancelled() => {}
    }
    running.stop().await
}

impl Simulator {
    /// Starts a server; it listens when this returns.
    ///
    /// # Errors
    /// A socket or the state file cannot be used.
    pub async fn spawn(options: Options) -> Result<Running, Error> {
        if !options.listen.ip().is_loopback() {
            return Err(Error::NotLoopback(options.listen));
        }
        let seed = options.seed.unwrap_or_else(rand::random);
        let settings = Settings {
            server: ServerId(options.server_id),
            domain: DomainId(options.domain_id),
            name: Text::new(options.name.clone())?,
            permit_adopt: options.permit_adopt,
            event_queue: options.event_queue,
            removals: options.removals,
            keep_alive_ms: options.keep_alive_ms,
            journal: options.state.is_some(),
        };
        let (mut core, file) = open_state(&options, settings, seed)?;
        core.misbehave(options.misbehave);
        let listen = |address: String| move |source| Error::Listen { address, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen(options.listen.to_string()))?;
        let address = listener.local_addr().map_err(listen(options.listen.to_string()))?;
        let faults = Faults {
            latency: Duration::from_millis(options.latency_ms),
            misbehaviour: options.misbehave,
            ..Faults::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State { core, links: HashMap::new(), file, failed: None }),
            faults: watch::Sender::new(faults),
            next_connection: AtomicU64::new(1),
            seed,
            silence: Duration::from_millis(u64::from(options.keep_alive_ms) * 3),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        if let Some(path) = options.control {
            let socket = control::listen(&path).map_err(listen(path.display().to_string()))?;
            shared.tasks.spawn(control::serve(shared.clone(), socket, path));
        }
        shared.tasks.spawn(accept(shared.clone(), listener));
        if options.script_rate > 0.0 {
            shared.tasks.spawn(live(shared.clone(), options.script_rate));
        }
        Ok(Running { address, shared })
    }
}

fn open_state(options: &Options, settings: Settings, seed: u64) -> Result<(Core, Option<StateFile>), Error> {
    let Some(path) = &options.state else { return Ok((Core::new(settings, new_boot(), seed), None)) };
    let (mut file, found) = StateFile::open(path)?;
    let restored = match found {
        Some(bytes) => {
            let restored = Core::restore(settings, seed, &bytes);
            let core = restored.map_err(|source| Error::Restore { path: path.clone(), source })?;
            if options.new_boot { core.lost_tables(new_boot(), seed) } else { core }
        }
        None => Core::new(settings, new_boot(), seed),
    };
    file.replace(&restored.snapshot())?;
    Ok((restored, Some(file)))
}

fn new_boot() -> BootId {
    BootId::from_bytes(rand::random())
}

impl Running {
    /// Does what a request on the control socket does.
    ///
    /// # Errors
    /// The server refused it.
    pub async fn control(&self, request: Request) -> Result<Value, ControlError> {
        control::carry_out(&self.shared, request).await.map_err(ControlError::Refused)
    }

    /// The server's truth.
    #[must_use]
    pub fn dump(&self) -> Dump {
        self.shared.lock().core.dump()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.lock().core.stats()
    }

    /// Stops the server and waits until its tasks have ended. Its meetings are in the state file, if it
    /// has one.
    ///
    /// # Errors
    /// The state file failed while it ran.
    pub async fn stop(self) -> Result<(), Error> {
        self.shared.stop.cancel();
        self.shared.cut_links();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        let mut state = self.shared.lock();
        // The lock of the state file goes with it, so that the next server may have it at once.
        state.file = None;
        state.failed.take().map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.cut_links();
    }
}

/// What the tasks of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    faults: watch::Sender<Faults>,
    next_connection: AtomicU64,
    seed: u64,
    silence: Duration,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

#[derive(Debug)]
struct State {
    core: Core,
    links: HashMap<ConnectionId, Link>,
    file: Option<StateFile>,
    failed: Option<StateError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
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
        let mut state = self.lock();
        state.links.remove(&id);
        state.core.disconnect(id);
    }

    /// Handles a batch; answers whether the connection is past its handshake.
    pub(super) fn received(
        &self,
        id: ConnectionId,
        batch: Vec<Result<remeet_protocol::Incoming, CodecError>>,
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

    pub(super) fn silence(&self) -> Duration {
        self.silence
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

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => admit(&shared, stream),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // The system is out of something: asking again at once would only burn time.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream) {
    let Faults { link_cut, down, .. } = *shared.faults.borrow();
    if link_cut || down || shared.links() >= CONNECTIONS_MAX {
        shared.lock().core.stats_mut().connections_refused += 1;
        return; // Dropping the stream closes it.
    }
    let id = ConnectionId(shared.next_connection.fetch_add(1, Ordering::Relaxed));
    shared.tasks.spawn(connection::serve(shared.clone(), stream, id));
}

/// The server's own life: terminals change by themselves.
async fn live(shared: Arc<Shared>, rate: f64) {
    let mut ticks = tokio::time::interval(LIFE_TICK);
    let mut owed = 0.0;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // More than a hundred thousand changes a second would only lock everybody else out.
        owed += rate.min(100_000.0) * LIFE_TICK.as_secs_f64();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 10,000, never negative
        let changes = owed as u32;
        owed -= f64::from(changes);
        shared.step(|core| core.live(now_ms(), changes));
    }
}

/// Milliseconds since 1970 UTC: written into rows, never decided by.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
