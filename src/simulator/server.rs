//! The driver of a simulated server: starts it, accepts connections, lets it live, stops it.

use super::client::ControlError;
use super::connection;
use super::control::{self, Request};
use super::core::{Core, RestoreError, Settings};
use super::faults::Faults;
use super::persistence::{StateError, StateFile};
use super::relay;
use super::shared::{Shared, new_boot, now_ms};
use super::{Dump, Options, Stats};
use remeet_protocol::wire::{Text, TextRefused};
use remeet_protocol::{DomainId, ServerId};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

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
    Name(#[from] TextRefused),
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
            scheduler_domain: DomainId(options.scheduler_domain.unwrap_or(options.domain_id)),
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
        let keep_alive = Duration::from_millis(u64::from(options.keep_alive_ms).max(1));
        let shared = Arc::new(Shared::new(core, file, faults, keep_alive, seed, relay::routes(&options.children)));
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
    let Faults { link_cut, down, .. } = *shared.faults().borrow();
    let too_many = shared.links() >= CONNECTIONS_MAX;
    if link_cut || down || too_many {
        shared.lock().core.stats_mut().connections_refused += 1;
        if too_many {
            shared.tasks.spawn(connection::turn_away(stream, shared.server()));
        }
        return; // Dropping the stream closes it.
    }
    let id = shared.next_connection();
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
