//! A world in virtual time: the real pure cores joined, everything else a model.
//!
//! ```text
//!  model clients        the process (dropped by a crash)              model network     real pure cores
//!   ClientCommand --->  recovery::Core <---> session::Session  <--- delay, cuts --->  simulator::core::Core
//!   ClientAnswer  <---    |    ^               one a server           loss, doubles       one a server
//!                         v    |
//!            lanes -> model store      tasks -> in-process cache (both outlive the process)
//! ```
//!
//! One event queue ([`calendar`]) drives it; time is an argument everywhere. The same seed gives the same
//! run: it is printed, and taken back by `REMEET_WORLD_SEED`. Dice are one for each part, so that a change
//! in one part does not move the others.
//!
//! - [`options`] – what a world is made of. [`network`], [`servers`], [`clients`] – the parts outside.
//! - [`process`], [`writer`], [`cacher`] – one life of the scheduler, driven as `src/scheduler` drives it.
//! - [`store`] – what `src/store` promises, as a model.
//! - [`checks`] – what may never be seen at any moment, and what must be true once all is quiet.

mod cacher;
mod calendar;
mod checks;
mod clients;
mod network;
mod options;
mod process;
mod servers;
mod store;
mod writer;

mod adoption;
mod crash;
mod keys;
mod ordinary;
mod random;
mod rounds;

use calendar::Calendar;
use clients::Client;
use network::{Way, Wire};
use options::{Dice, Options};
use process::Process;
use remeet::model::{LegContent, Moment};
use remeet::recovery::{CacheTask, Input, Read, ReadId, ReadResult};
use remeet::session::PersistId;
use remeet::simulator::core::ConnectionId;
use remeet::store::Outcome;
use remeet::store::memory::MemoryCache;
use remeet_protocol::message::{ClientAnswer, ClientCommand};
use remeet_protocol::{ErrorCode, LegId, Packet, ServerId, Token};
use servers::Simulated;
use std::collections::BTreeMap;
use std::time::Duration;
use store::Store;
use writer::Batch;

/// Milliseconds since 1970 UTC when the world begins.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Nothing that a test waits for takes longer, in virtual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is to happen. What names a life is void once that life is over.
enum Happening {
    Packet { server: ServerId, connection: ConnectionId, way: Way, packet: Packet },
    Dial { life: u64, server: ServerId },
    LinkEnded { life: u64, server: ServerId },
    ServerHangsUp { server: ServerId, connection: ConnectionId },
    Wakes { server: ServerId },
    Boot,
    Term { life: u64 },
    Wake { life: u64 },
    Commit { life: u64, lane: usize, token: Token, batch: Batch },
    Settle { life: u64, lane: usize, token: Token, batch: Batch, stood: Option<Vec<Outcome>> },
    Written { life: u64, lane: usize, outcomes: Vec<(PersistId, Outcome)>, again: Batch },
    ReadBegins { life: u64, id: ReadId, read: Read },
    ReadEnds { life: u64, id: ReadId, result: Result<ReadResult, String> },
    CacheTask { life: u64, task: CacheTask },
    CacheWritten { life: u64, task: CacheTask, content: Option<LegContent> },
    ClientAsks { command: ClientCommand },
    ClientHears { client: u64, answer: ClientAnswer },
    ClientWaited { client: u64, number: u64 },
    Act(Box<dyn FnOnce(&mut World)>),
}

/// The world.
pub(super) struct World {
    options: Options,
    calendar: Calendar<Happening>,
    dice: Dice,
    servers: BTreeMap<ServerId, Simulated>,
    wires: BTreeMap<ServerId, Wire>,
    last_connection: u64,
    clients: BTreeMap<u64, Client>,
    store: Store,
    store_down: bool,
    cache: MemoryCache,
    cache_down: bool,
    /// It was down or wiped: what it lacks is found by the next comparison only.
    cache_disturbed: bool,
    process: Option<Process>,
    /// Lives of the scheduler so far.
    life: u64,
    kill_after: Option<u64>,
    /// Codes that servers answered to intents.
    carried_out: BTreeMap<(ServerId, LegId, u64), ErrorCode>,
    /// Compare every acknowledgement with what is stored: for worlds whose every leg is ours all the time.
    check_acknowledged: bool,
    /// What events told that are not acknowledged: (leg, revision), by server and number.
    told: BTreeMap<(ServerId, u64), (LegId, u64)>,
}

impl World {
    /// Servers without meetings, an empty store, and a scheduler that starts.
    fn new(seed: u64, options: Options) -> Self {
        // REMEET_WORLD_LOG=1: what the cores say, for whoever looks for a fault.
        if std::env::var_os("REMEET_WORLD_LOG").is_some() {
            let _ = tracing_subscriber::fmt()
                .with_test_writer()
                .without_time()
                .with_max_level(tracing::Level::TRACE)
                .try_init();
        }
        let ids: Vec<ServerId> = (1..=options.servers).map(ServerId).collect();
        let simulated = |id: &ServerId| (*id, Simulated::new(seed, *id, options.event_queue, options.removals));
        let mut world = Self {
            servers: ids.iter().map(simulated).collect(),
            wires: ids.iter().map(|id| (*id, Wire::new(seed, *id))).collect(),
            clients: (1..=options.clients).map(|id| (id, Client::default())).collect(),
            options,
            calendar: Calendar::new(),
            dice: Dice::new(seed, 1),
            last_connection: 0,
            store: Store::default(),
            store_down: false,
            cache: MemoryCache::default(),
            cache_down: false,
            cache_disturbed: false,
            process: None,
            life: 0,
            kill_after: None,
            carried_out: BTreeMap::new(),
            check_acknowledged: false,
            told: BTreeMap::new(),
        };
        world.boot();
        world
    }

    fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.calendar.now().0 / 1_000
    }

    /// The living scheduler.
    fn core(&self) -> &remeet::recovery::Core {
        &self.process.as_ref().expect("the scheduler lives").core
    }

    /// Crashes the scheduler and starts another after `pause`.
    fn restart(&mut self, pause: Duration) {
        self.crash();
        self.calendar.after(pause, Happening::Boot);
    }

    /// Does something at a later moment.
    fn later(&mut self, pause: Duration, act: impl FnOnce(&mut World) + 'static) {
        self.calendar.after(pause, Happening::Act(Box::new(act)));
    }

    fn run_for(&mut self, span: Duration) {
        let limit = self.calendar.now() + span;
        while self.calendar.now() < limit {
            self.step(limit);
        }
    }

    /// Runs until `seen`; fails if that takes too long.
    fn run_until(&mut self, what: &str, mut seen: impl FnMut(&World) -> bool) {
        let limit = self.calendar.now() + PATIENCE;
        while !seen(self) {
            assert!(self.calendar.now() < limit, "{what} never came\n{}", self.describe());
            self.step(limit);
        }
    }

    /// One happening.
    fn step(&mut self, limit: Moment) {
        let Some(happening) = self.calendar.next(limit) else { return };
        match happening {
            Happening::Packet { server, connection, way, packet } => self.arrive(server, connection, way, packet),
            Happening::Dial { life, server } => {
                if life == self.life && self.process.is_some() {
                    self.dial(server);
                }
            }
            Happening::LinkEnded { life, server } => {
                if life == self.life {
                    self.session(server, |session, now| session.disconnected(now, "closed"));
                }
            }
            Happening::ServerHangsUp { server, connection } => {
                if let Some(simulated) = self.servers.get_mut(&server) {
                    simulated.disconnect(connection);
                }
                self.flush_server(server);
            }
            Happening::Wakes { server } => self.wake_server(server),
            Happening::Boot => {
                if self.process.is_none() {
                    self.boot();
                }
            }
            Happening::Term { life } => self.begin_term(life),
            Happening::Wake { life } => self.wake(life),
            Happening::Commit { life, lane, token, batch } => self.commit(life, lane, token, batch),
            Happening::Settle { life, lane, token, batch, stood } => {
                self.settle(life, lane, token, batch, stood.as_deref());
            }
            Happening::Written { life, lane, outcomes, again } => self.batch_ended(life, lane, outcomes, again),
            Happening::ReadBegins { life, id, read } => self.read(life, id, &read),
            Happening::ReadEnds { life, id, result } => {
                if life == self.life {
                    self.input(Input::Read(id, result));
                }
            }
            Happening::CacheTask { life, task } => self.cache_task(life, task),
            Happening::CacheWritten { life, task, content } => self.cache_written(life, task, content),
            Happening::ClientAsks { command } => self.client_asks(command),
            Happening::ClientHears { client, answer } => self.client_hears(client, answer),
            Happening::ClientWaited { client, number } => self.client_waited(client, number),
            Happening::Act(act) => act(self),
        }
    }
}
