//! One life of the scheduler: the real cores, and a driver as `src/scheduler` has one, in virtual time.

use super::cacher::Cacher;
use super::network::Way;
use super::options::Options;
use super::servers::DOMAIN;
use super::writer::Lane;
use super::{Happening, World};
use remeet::model::Moment;
use remeet::recovery::{Alarm, Core, Input, Output, Published, Read, ReadId, ReadResult, StoredDigest, Waiter};
use remeet::session::{Identity, PersistId, Session};
use remeet::store::{Begun, Candidate, Outcome};
use remeet_protocol::{Holder, ServerId, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Every life is of this node.
const NODE: &str = "world";
const LEASE: Duration = Duration::from_secs(6);

/// A process. A crash drops it; store and cache stay.
pub(super) struct Process {
    pub(super) core: Core,
    pub(super) holder: Holder,
    pub(super) token: Option<Token>,
    pub(super) sessions: BTreeMap<ServerId, Session>,
    pub(super) lanes: [Lane; 2],
    pub(super) cacher: Cacher,
    /// Which servers' sessions await a persist.
    awaited: BTreeSet<(PersistId, ServerId)>,
    /// Who waits for an answer: (client, number).
    pub(super) waiters: BTreeMap<Waiter, (u64, u64)>,
    pub(super) last_waiter: u64,
    /// Outputs carried out.
    pub(super) outputs: u64,
    /// Reads of each kind.
    pub(super) reads: BTreeMap<&'static str, u64>,
    wakes_at: Option<Moment>,
    pub(super) published: Vec<Published>,
    pub(super) alarms: Vec<Alarm>,
    pub(super) alarms_over: Vec<Alarm>,
}

impl Process {
    pub(super) fn new(options: &Options, servers: &[ServerId], holder: Holder, seed: [u8; 32]) -> Self {
        let named: Vec<_> = servers.iter().map(|server| (*server, DOMAIN)).collect();
        let session = |server: &ServerId| {
            let identity = Identity { domain: DOMAIN, name: "world".to_owned(), holder, server: *server };
            let seed = u64::from(seed[0]) << 32 | u64::from(server.0);
            (*server, Session::new(identity, remeet::session::Settings { seed, ..options.session.clone() }))
        };
        Self {
            core: Core::new(options.recovery.clone(), &named, seed),
            holder,
            token: None,
            sessions: servers.iter().map(session).collect(),
            lanes: [Lane::default(), Lane::default()],
            cacher: Cacher::default(),
            awaited: BTreeSet::new(),
            waiters: BTreeMap::new(),
            last_waiter: 0,
            outputs: 0,
            reads: BTreeMap::new(),
            wakes_at: None,
            published: Vec::new(),
            alarms: Vec::new(),
            alarms_over: Vec::new(),
        }
    }
}

impl World {
    /// The scheduler starts: it dials, and begins a term as soon as the store lets it.
    pub(super) fn boot(&mut self) {
        assert!(self.process.is_none(), "one scheduler at a time");
        self.life += 1;
        let servers: Vec<ServerId> = self.servers.keys().copied().collect();
        let holder = Holder::from_bytes(self.dice.bytes());
        self.process = Some(Process::new(&self.options, &servers, holder, self.dice.bytes()));
        for server in servers {
            let pause = self.dice.pause(Duration::from_millis(5));
            self.redial(server, pause);
        }
        let life = self.life;
        let pause = self.dice.pause(Duration::from_millis(5));
        self.calendar.after(pause, Happening::Term { life });
    }

    /// The process ends without a word. What it sent may arrive, what it gave to the store may be stored.
    pub(super) fn crash(&mut self) {
        self.process = None;
        self.drop_links();
    }

    /// Kills the scheduler after so many outputs of its present or next life.
    pub(super) fn kill_after(&mut self, outputs: u64) {
        self.kill_after = Some(outputs);
    }

    pub(super) fn begin_term(&mut self, life: u64) {
        if life != self.life || self.process.is_none() {
            return;
        }
        if self.store_down {
            return self.calendar.after(Duration::from_millis(100), Happening::Term { life });
        }
        let Some(process) = &mut self.process else { return };
        let candidate =
            Candidate { node: NODE, holder: process.holder, lease: LEASE, epoch_above: remeet_protocol::Epoch(0) };
        let token = match self.store.begin_term(self.calendar.now(), candidate) {
            Begun::Granted(token) => token,
            // Not of this node: there is no other.
            Begun::Held(standing) => panic!("a term is held: {standing:?}"),
        };
        process.token = Some(token);
        self.input(Input::TermBegan(token));
    }

    /// Something for the core.
    pub(super) fn input(&mut self, input: Input) {
        let (now, wall_ms) = (self.calendar.now(), self.wall_ms());
        if let Some(process) = &mut self.process {
            process.core.handle(now, wall_ms, input);
        }
        self.pump();
    }

    /// Something for a session.
    pub(super) fn session(&mut self, server: ServerId, act: impl FnOnce(&mut Session, Moment)) {
        let now = self.calendar.now();
        if let Some(session) = self.process.as_mut().and_then(|process| process.sessions.get_mut(&server)) {
            act(session, now);
            self.pump();
        }
    }

    pub(super) fn written(&mut self, life: u64, outcomes: Vec<(PersistId, Outcome)>) {
        for (id, outcome) in outcomes {
            if life != self.life {
                return;
            }
            let now = self.calendar.now();
            if let Some(process) = &mut self.process {
                let of_this = (id, ServerId(0))..=(id, ServerId(u32::MAX));
                for (_, server) in process.awaited.extract_if(of_this, |_| true) {
                    let Some(session) = process.sessions.get_mut(&server) else { continue };
                    match outcome {
                        Outcome::Applied { .. } => session.stored(now, id),
                        Outcome::Lost { .. } => session.dropped(id),
                    }
                }
            }
            self.input(Input::Written(id, outcome));
        }
    }

    pub(super) fn wake(&mut self, life: u64) {
        let now = self.calendar.now();
        let Some(process) = self.process.as_mut().filter(|_| life == self.life) else { return };
        if process.wakes_at.is_some_and(|at| at <= now) {
            process.wakes_at = None;
        }
        for session in process.sessions.values_mut() {
            if session.next_wake().is_some_and(|(at, _)| at <= now) {
                session.wake(now);
            }
        }
        if process.core.next_wake().is_some_and(|at| at <= now) {
            return self.input(Input::Wake);
        }
        self.pump();
    }

    /// Carries out outputs until nobody has anything more to say, then lets packets and batches leave.
    fn pump(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let mut killed = false;
        'pump: loop {
            let mut quiet = true;
            while let Some(output) = process.core.poll() {
                quiet = false;
                process.outputs += 1;
                tracing::trace!(at = self.calendar.now().0, life = self.life, ?output);
                self.carry_out(&mut process, output);
                if self.kill_after.is_some_and(|limit| process.outputs >= limit) {
                    killed = true;
                    break 'pump;
                }
            }
            let (now, wall_ms) = (self.calendar.now(), self.wall_ms());
            let Process { core, sessions, .. } = &mut process;
            for (server, session) in sessions {
                while let Some(heard) = session.poll_heard() {
                    quiet = false;
                    tracing::trace!(at = now.0, server = server.0, ?heard);
                    core.handle(now, wall_ms, Input::Heard(*server, heard));
                }
            }
            if quiet {
                break;
            }
        }
        let mut closing = Vec::new();
        for (server, session) in &mut process.sessions {
            let connection = self.wires.get(server).and_then(|wire| wire.connection);
            while let Some(packet) = session.poll_packet() {
                if let Some(connection) = connection {
                    self.carry(*server, connection, Way::ToServer, packet);
                }
            }
            if session.wants_close().is_some() && connection.is_some() {
                closing.push((*server, session.redial_after()));
            }
        }
        self.begin_batches(&mut process);
        self.begin_cache_task(&mut process);
        self.arm(&mut process);
        self.process = Some(process);
        for (server, redial) in closing {
            self.close_link(server, redial);
        }
        if killed {
            self.kill_after = None;
            self.crash();
        }
    }

    fn arm(&mut self, process: &mut Process) {
        let sessions = process.sessions.values().filter_map(|session| session.next_wake().map(|(at, _)| at));
        let Some(at) = sessions.chain(process.core.next_wake()).min() else { return };
        if process.wakes_at.is_none_or(|armed| at < armed) {
            process.wakes_at = Some(at);
            self.calendar.at(at, Happening::Wake { life: self.life });
        }
    }

    fn carry_out(&mut self, process: &mut Process, output: Output) {
        let now = self.calendar.now();
        match output {
            Output::Persist { id, lane, unit } => process.lanes[usize::from(lane % 2 == 1)].push(id, unit),
            Output::Ask { server, ticket, request, after } => {
                if let Some(id) = after {
                    process.awaited.insert((id, server));
                }
                if let Some(session) = process.sessions.get_mut(&server) {
                    session.ask(now, ticket, request, after);
                }
            }
            Output::Acknowledge { server, number } => {
                if self.check_acknowledged {
                    self.check_told(server, number);
                }
                if let Some(session) = process.sessions.get_mut(&server) {
                    session.acknowledge(number);
                }
            }
            Output::Read { id, read } => {
                *process.reads.entry(kind(&read)).or_default() += 1;
                let pause = self.dice.pause(self.options.store_delay);
                self.calendar.after(pause, Happening::ReadBegins { life: self.life, id, read });
            }
            Output::Cache(task) => process.cacher.push(task),
            Output::Answer(waiter, answer) => {
                if let Some((client, _)) = process.waiters.remove(&waiter) {
                    let pause = self.dice.pause(self.options.delay);
                    self.calendar.after(pause, Happening::ClientHears { client, answer });
                }
            }
            Output::Publish(published) => process.published.push(published),
            Output::Alarm(alarm) => process.alarms.push(alarm),
            // Nobody asks for a dry run here.
            Output::Planned { plan, .. } => panic!("a plan of nobody's: {plan:?}"),
            Output::AlarmOver(alarm) => process.alarms_over.push(alarm),
            // One scheduler, and a database that forgets nothing.
            Output::NewerToken { server, token } => panic!("server {server} has admitted {token}"),
        }
    }

    /// What a read finds, as of now; its answer takes a while more.
    pub(super) fn read(&mut self, life: u64, id: ReadId, read: &Read) {
        let down = self.store_down && !matches!(read, Read::CachedKeys(_) | Read::Stamps(_) | Read::CachedNames(_));
        let (result, pause) = if down {
            (Err("the store is down".to_owned()), Duration::from_secs(3))
        } else {
            (self.evaluate(read), self.dice.pause(self.options.store_delay))
        };
        self.calendar.after(pause, Happening::ReadEnds { life, id, result });
    }

    fn evaluate(&mut self, read: &Read) -> Result<ReadResult, String> {
        let store = &self.store;
        Ok(match read {
            Read::LookUp { server, legs } => ReadResult::LookUp(store.look_up(*server, legs)),
            Read::Legs(legs) => ReadResult::LookUp(store.named(legs)),
            Read::Digests(legs) => ReadResult::Digests(store.contents(legs).iter().map(StoredDigest::count).collect()),
            Read::Roster { meeting, terminal } => ReadResult::Roster(store.roster(*meeting, terminal)),
            Read::Instance(instance) => ReadResult::Instance(store.instance(*instance)),
            Read::CachedKeys(legs) => ReadResult::CachedKeys(self.cached_keys(legs)?),
            Read::Stamps(legs) => ReadResult::Stamps(self.cache_stamps(legs)?),
            Read::CachedNames(domain) => ReadResult::CachedNames(self.cache_names(*domain)?),
        })
    }
}

fn kind(read: &Read) -> &'static str {
    match read {
        Read::LookUp { .. } => "look-up",
        Read::Legs(_) => "legs",
        Read::Digests(_) => "digests",
        Read::Roster { .. } => "roster",
        Read::Instance(_) => "instance",
        Read::CachedKeys(_) => "cached keys",
        Read::Stamps(_) => "stamps",
        Read::CachedNames(_) => "cached names",
    }
}
