//! A world in virtual time: the real pure cores joined, everything else a model.
//!
//! ```text
//!  model clients      one of two processes (dropped by a crash)         model network     real pure cores
//!   ClientCommand --->  recovery::Core <---> session::Session  <--- delay, cuts --->  simulator::core::Core
//!   ClientAnswer  <---    |    ^   |           one a server           loss, doubles       one a server
//!                         v    |   +-- recovery::lease, lanes, cache_queue
//!                model store, in-process cache (both outlive the processes)
//! ```
//!
//! One event queue ([`calendar`]) drives it; time is an argument everywhere. The same seed gives the same
//! run: it is printed, and taken back by `REMEET_SIM_SEED`. Dice are one for each part, so that a change
//! in one part does not move the others.
//!
//! - [`options`] – what a world is made of. [`network`], [`servers`], [`clients`] – the parts outside.
//! - [`node`] – a machine that a scheduler runs on: crashes, pauses, its cut from the database.
//! - [`process`], [`term`], [`writer`], [`cacher`] – one life of a scheduler, driven as `src/scheduler` drives it.
//! - [`store`] – what `src/store` promises, as a model; [`failover`] – one that loses what was written last.
//! - [`checks`] – what may never be seen at any moment, and (`checks::end`) what must be true once all is quiet.
//! - [`trace`] – what happened last, for people; and a hash of everything that happened.
//! - [`faults`], [`seeds`] – disorder drawn from a seed, and how many seeds are run.

mod cacher;
mod calendar;
mod checks;
mod clients;
mod failover;
mod network;
mod node;
mod options;
mod process;
mod servers;
mod store;
mod term;
mod trace;
mod writer;

mod adoption;
mod crash;
mod faults;
mod guards;
mod keys;
mod ordinary;
mod rounds;
mod seeds;

use calendar::Calendar;
use clients::Client;
use network::Way;
use node::Node;
use options::{Dice, Options};
use process::Process;
use remeet::model::{LegContent, Moment};
use remeet::recovery::lanes::{Batch, Units};
use remeet::recovery::lease::{LeaseAnswer, LeaseAsk};
use remeet::recovery::{CacheTask, Input, Read, ReadId, ReadResult};
use remeet::session::PersistId;
use remeet::simulator::core::ConnectionId;
use remeet::store::Outcome;
use remeet::store::memory::MemoryCache;
use remeet_protocol::message::{ClientAnswer, ClientCommand};
use remeet_protocol::{BootId, Epoch, ErrorCode, Holder, LegId, Packet, ServerId, Token};
use servers::Simulated;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Store;

/// Milliseconds since 1970 UTC when the world begins.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Nothing that a test waits for takes longer, in virtual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Things that happen at one moment at most: of more, one is due again and again.
const AT_ONCE_MAX: u32 = 10_000;

/// What is to happen. What names a life is void once that life is over.
enum Happening {
    Packet {
        server: ServerId,
        connection: ConnectionId,
        way: Way,
        packet: Packet,
    },
    Dial {
        life: u64,
        server: ServerId,
    },
    LinkEnded {
        life: u64,
        server: ServerId,
    },
    LinkBreaks {
        life: u64,
        server: ServerId,
        connection: ConnectionId,
        reason: String,
    },
    ServerHangsUp {
        server: ServerId,
        connection: ConnectionId,
    },
    Wakes {
        server: ServerId,
    },
    /// On links that lose packets: the server sends again what is not acknowledged (SPEC E-5).
    EventsAgain {
        server: ServerId,
        pause: Duration,
    },
    /// What came in the meantime is followed by what it leads to.
    Turn {
        life: u64,
    },
    Boot {
        node: usize,
    },
    LeaseAsked {
        life: u64,
        node: usize,
        holder: Holder,
        ask: LeaseAsk,
        /// Its asker knows nothing of it any more: it was told that the outcome is unknown.
        late: bool,
    },
    LeaseAnswered {
        life: u64,
        answer: LeaseAnswer,
    },
    Released {
        token: Token,
    },
    Wake {
        life: u64,
    },
    Commit {
        life: u64,
        token: Token,
        batch: Batch,
    },
    /// A commit that was told to be of unknown outcome comes through after all.
    LateCommit {
        token: Token,
        units: Units,
        settled: bool,
    },
    Settle {
        life: u64,
        token: Token,
        batch: Batch,
        stood: Option<Vec<Outcome>>,
    },
    Written {
        life: u64,
        lane: usize,
        outcomes: Vec<(PersistId, Outcome)>,
        again: Units,
    },
    Unwritten {
        life: u64,
        batch: Batch,
        fenced: bool,
    },
    ReadBegins {
        life: u64,
        id: ReadId,
        read: Read,
    },
    ReadEnds {
        life: u64,
        id: ReadId,
        result: Result<ReadResult, String>,
    },
    CacheRun {
        life: u64,
        epoch: Epoch,
        tasks: Vec<CacheTask>,
    },
    CacheWritten {
        life: u64,
        epoch: Epoch,
        tasks: Vec<CacheTask>,
        /// `None`: the store could not say it.
        stored: Option<cacher::Stored>,
    },
    ClientAsks {
        command: ClientCommand,
    },
    ClientHears {
        client: u64,
        /// Of the scheduler that says it.
        term: Option<Token>,
        answer: ClientAnswer,
    },
    ClientWaited {
        client: u64,
        number: u64,
        wait: u64,
    },
    Act(Box<dyn FnOnce(&mut World)>),
}

impl Happening {
    /// The life that must run for it: while its process is paused, it waits.
    fn runs_in(&self) -> Option<u64> {
        match self {
            Happening::Dial { life, .. }
            | Happening::LinkEnded { life, .. }
            | Happening::LinkBreaks { life, .. }
            | Happening::Turn { life }
            | Happening::LeaseAnswered { life, .. }
            | Happening::Wake { life }
            | Happening::Settle { life, .. }
            | Happening::Written { life, .. }
            | Happening::Unwritten { life, .. }
            | Happening::ReadEnds { life, .. }
            | Happening::CacheRun { life, .. }
            | Happening::CacheWritten { life, .. } => Some(*life),
            _ => None,
        }
    }
}

/// Where a fault shows that was set before: at the first thing that goes another way for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Site {
    /// A packet is not read.
    Hang(ServerId),
    /// An answer is *busy*, or breaks the protocol.
    Ails(ServerId),
    /// A packet or a connection does not get through.
    Wire(usize, ServerId),
    /// A call fails.
    Store,
    StoreOf(usize),
    Cache,
    CacheWrites,
    /// A planted key is read.
    CachedKey(LegId),
}

/// The world.
pub(super) struct World {
    options: Options,
    calendar: Calendar<Happening>,
    dice: Dice,
    servers: BTreeMap<ServerId, Simulated>,
    /// Where schedulers run: one or two.
    nodes: Vec<Node>,
    last_connection: u64,
    clients: BTreeMap<u64, Client>,
    store: Store,
    store_down: bool,
    /// The database will fail over.
    failover: Option<failover::Failover>,
    cache: MemoryCache,
    cache_down: bool,
    /// It may only be read.
    cache_readonly: bool,
    /// Lives of schedulers so far.
    life: u64,
    /// Codes that servers answered to intents, one for each life of their tables.
    carried_out: BTreeMap<(ServerId, LegId, u64), BTreeMap<BootId, ErrorCode>>,
    /// Compare every acknowledgement with what is stored: for worlds whose every leg is ours all the time. An event of a leg
    /// that is not is acknowledged all the same, since its mark stays below (SPEC E-3).
    check_acknowledged: bool,
    /// What events told that are not acknowledged, by server and number.
    told: BTreeMap<(ServerId, u64), rounds::Told>,
    seen: checks::Seen,
    /// Legs of which a wrong key was planted, in the cache under the right generation or in the row: nothing tells it
    /// from the right one until the server refuses its proof.
    wrong_keys: BTreeSet<LegId>,
    /// Faults that are set, and befall when they show here.
    set: BTreeMap<Site, &'static str>,
    /// Faults that befell, of each kind.
    faults: BTreeMap<&'static str, u64>,
    /// All of them, but for what is drawn for each packet or commit.
    befallen: u64,
    /// Batches that were committed.
    commits: u64,
    /// Things that happened at this very moment.
    at_once: (Moment, u32),
}

impl World {
    /// Servers without meetings, an empty store, and a scheduler that starts.
    fn new(seed: u64, options: Options) -> Self {
        // REMEET_SIM_LOG=1: what the cores say, for whoever looks for a fault.
        if std::env::var_os("REMEET_SIM_LOG").is_some() {
            let _ = tracing_subscriber::fmt()
                .with_test_writer()
                .without_time()
                .with_max_level(tracing::Level::TRACE)
                .try_init();
        }
        trace::begin();
        let ids: Vec<ServerId> = (1..=options.servers).map(ServerId).collect();
        let simulated = |id: &ServerId| (*id, Simulated::new(seed, *id, options.event_queue, options.removals));
        let mut world = Self {
            servers: ids.iter().map(simulated).collect(),
            nodes: (0..options.nodes).map(|place| Node::new(seed, place, &ids)).collect(),
            clients: (1..=options.clients).map(|id| (id, Client::default())).collect(),
            calendar: Calendar::new(),
            dice: Dice::new(seed, 1),
            last_connection: 0,
            store: Store::default(),
            store_down: false,
            failover: None,
            cache: MemoryCache::default(),
            cache_down: false,
            cache_readonly: false,
            life: 0,
            carried_out: BTreeMap::new(),
            check_acknowledged: false,
            told: BTreeMap::new(),
            seen: checks::Seen::default(),
            wrong_keys: BTreeSet::new(),
            set: BTreeMap::new(),
            faults: BTreeMap::new(),
            befallen: 0,
            commits: 0,
            at_once: (Moment(0), 0),
            options,
        };
        (0..world.nodes.len()).for_each(|node| world.boot(node));
        if !world.options.session.stream {
            ids.iter().for_each(|server| world.events_again(*server, servers::EVENTS_AGAIN));
        }
        world
    }

    fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.calendar.now().0 / 1_000
    }

    /// The scheduler that holds the term; or the only one.
    fn process(&self) -> Option<&Process> {
        self.commander().and_then(|node| self.nodes[node].process.as_ref())
    }

    /// The core of the scheduler that holds the term.
    fn core(&self) -> &remeet::recovery::Core {
        &self.process().expect("a scheduler lives").core
    }

    /// Crashes the scheduler and starts another after `pause`.
    fn restart(&mut self, pause: Duration) {
        let node = self.commander().unwrap_or(0);
        self.crash(node);
        self.calendar.after(pause, Happening::Boot { node });
    }

    /// A fault befell.
    fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
        self.befallen += 1;
        trace::fault(self.calendar.now(), kind);
    }

    /// A fault is set, which befalls once it shows.
    fn set(&mut self, site: Site, kind: &'static str) {
        self.set.insert(site, kind);
    }

    /// It can show no more.
    fn unset(&mut self, site: Site) {
        self.set.remove(&site);
    }

    /// What was set shows here.
    fn bites(&mut self, site: Site) {
        if let Some(kind) = self.set.remove(&site) {
            self.fault(kind);
        }
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

    /// One happening; then everything that may never be seen is looked for.
    fn step(&mut self, limit: Moment) {
        let Some(happening) = self.calendar.next(limit) else { return };
        if let Some(node) = happening.runs_in().and_then(|life| self.node_of(life))
            && self.nodes[node].is_paused(self.calendar.now())
        {
            return self.calendar.at(self.nodes[node].paused_until, happening);
        }
        let now = self.calendar.now();
        trace::happening(now, &happening);
        self.at_once = (now, if self.at_once.0 == now { self.at_once.1 + 1 } else { 0 });
        assert!(
            self.at_once.1 < AT_ONCE_MAX,
            "time stands still: something is due, and is due again\n{}",
            self.describe()
        );
        self.happen(happening);
        self.check_step();
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Packet { server, connection, way, packet } => self.arrive(server, connection, way, packet),
            Happening::Dial { life, server } => {
                if let Some(node) = self.node_of(life) {
                    self.dial(node, server);
                }
            }
            Happening::LinkEnded { life, server } => {
                // Unless another connection stands since.
                let node = self.node_of(life);
                if let Some(node) = node.filter(|node| self.wire(*node, server).is_some_and(|wire| !wire.stands())) {
                    self.session(node, server, |session, now| session.disconnected(now, "closed"));
                }
            }
            Happening::LinkBreaks { life, server, connection, reason } => {
                self.link_breaks(life, server, connection, &reason);
            }
            Happening::ServerHangsUp { server, connection } => self.hang_up(server, connection),
            Happening::EventsAgain { server, pause } => self.events_again(server, pause),
            Happening::Turn { life } => self.turn(life),
            Happening::Wakes { server } => self.wake_server(server),
            Happening::Boot { node } => {
                if self.nodes[node].process.is_none() {
                    self.boot(node);
                }
            }
            Happening::LeaseAsked { life, node, holder, ask, late } => self.lease_asked(life, node, holder, ask, late),
            Happening::LeaseAnswered { life, answer } => self.lease_answered(life, answer),
            Happening::Released { token } => self.released(token),
            Happening::Wake { life } => self.wake(life),
            Happening::Commit { life, token, batch } => self.commit(life, token, batch),
            Happening::LateCommit { token, units, settled } => self.late_commit(token, &units, settled),
            Happening::Settle { life, token, batch, stood } => self.settle(life, token, batch, stood.as_deref()),
            Happening::Written { life, lane, outcomes, again } => self.batch_ended(life, lane, outcomes, again),
            Happening::Unwritten { life, batch, fenced } => self.batch_failed(life, batch, fenced),
            Happening::ReadBegins { life, id, read } => self.read(life, id, &read),
            Happening::ReadEnds { life, id, result } => {
                let Some(node) = self.node_of(life) else { return };
                if let Some(process) = &mut self.nodes[node].process {
                    process.reads_open -= 1;
                }
                self.input_at(node, Input::Read(id, result));
            }
            Happening::CacheRun { life, epoch, tasks } => self.cache_run(life, epoch, tasks),
            Happening::CacheWritten { life, epoch, tasks, stored } => self.cache_written(life, epoch, tasks, stored),
            Happening::ClientAsks { command } => self.client_asks(command),
            Happening::ClientHears { client, term, answer } => self.client_hears(client, term, answer),
            Happening::ClientWaited { client, number, wait } => self.client_waited(client, number, wait),
            Happening::Act(act) => act(self),
        }
    }
}
