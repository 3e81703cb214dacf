//! One life of the scheduler: the real cores, and a driver as `src/scheduler` has one, in virtual time.

use super::network::Way;
use super::node::{Due, Interrupt};
use super::options::Options;
use super::servers::DOMAIN;
use super::{Happening, World};
use remeet::model::Moment;
use remeet::recovery::cache_queue::CacheQueue;
use remeet::recovery::lanes::{Awaited, Lanes};
use remeet::recovery::lease::{Lease, LeaseTiming, commands};
use remeet::recovery::{Alarm, Core, Input, Output, Published, Read, ReadId, ReadResult, StoredDigest, Waiter};
use remeet::session::{Heard, Identity, PersistId, Session};
use remeet::store::{Outcome, Write};
use remeet_protocol::{BootId, Holder, LegId, ServerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A process. A crash drops it; store and cache stay.
pub(super) struct Process {
    pub(super) life: u64,
    pub(super) core: Core,
    pub(super) holder: Holder,
    pub(super) lease: Lease,
    /// When the question about the lease that is under way was asked.
    pub(super) asked_at: Moment,
    /// When the lease can run out, for the check of rule 5.
    pub(super) lease_ends: Moment,
    pub(super) sessions: BTreeMap<ServerId, Session>,
    pub(super) lanes: Lanes,
    pub(super) cache_queue: CacheQueue,
    /// The cache is away: when it is asked for something small.
    pub(super) probes_at: Option<Moment>,
    awaited: Awaited,
    /// Who waits for an answer: (client, number).
    pub(super) waiters: BTreeMap<Waiter, (u64, u64)>,
    pub(super) last_waiter: u64,
    /// Outputs carried out.
    pub(super) outputs: u64,
    /// Reads of each kind.
    pub(super) reads: BTreeMap<&'static str, u64>,
    /// Reads that are not answered yet.
    pub(super) reads_open: usize,
    /// Legs that this life has read from the store, or made: for the check of rule 10.
    pub(super) read: BTreeSet<LegId>,
    /// The boot id that each server last named to it: event numbers are of that.
    boots: BTreeMap<ServerId, BootId>,
    wakes_at: Option<Moment>,
    /// The end of its turn is to come.
    pub(super) turn_ends: bool,
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
        let spread = Duration::from_millis(u64::from(seed[1]) / 4);
        Self {
            life: 0,
            core: Core::new(options.recovery.clone(), &named, seed),
            holder,
            lease: Lease::new(LeaseTiming::of(options.lease, spread)),
            asked_at: Moment(0),
            lease_ends: Moment(0),
            sessions: servers.iter().map(session).collect(),
            lanes: Lanes::default(),
            cache_queue: CacheQueue::default(),
            probes_at: None,
            awaited: Awaited::default(),
            waiters: BTreeMap::new(),
            last_waiter: 0,
            outputs: 0,
            reads: BTreeMap::new(),
            reads_open: 0,
            read: BTreeSet::new(),
            boots: BTreeMap::new(),
            wakes_at: None,
            turn_ends: false,
            published: Vec::new(),
            alarms: Vec::new(),
            alarms_over: Vec::new(),
        }
    }
}

impl World {
    /// A scheduler starts: it dials, and asks for a term.
    pub(super) fn boot(&mut self, node: usize) {
        assert!(self.nodes[node].process.is_none(), "one scheduler at a time on a node");
        self.life += 1;
        let servers: Vec<ServerId> = self.servers.keys().copied().collect();
        let holder = Holder::from_bytes(self.dice.bytes());
        let mut process = Process::new(&self.options, &servers, holder, self.dice.bytes());
        process.life = self.life;
        if let Some(lease) = self.nodes[node].lease.take() {
            process.lease = lease;
        }
        self.nodes[node].process = Some(process);
        for server in servers {
            let pause = self.dice.pause(Duration::from_millis(5));
            self.redial(node, server, pause);
        }
        self.pump(node);
    }

    /// Something for the core of the scheduler that holds the term.
    pub(super) fn input(&mut self, input: Input) {
        if let Some(node) = self.commander() {
            self.input_at(node, input);
        }
    }

    /// Something for a core.
    pub(super) fn input_at(&mut self, node: usize, input: Input) {
        let (now, wall_ms) = (self.calendar.now(), self.wall_ms() + self.nodes[node].wall_ahead_ms);
        if let Some(process) = &mut self.nodes[node].process {
            process.core.handle(now, wall_ms, input);
        }
        self.end_turn(node);
    }

    /// What came is followed by what it leads to: at once, or when more has come, as the driver takes what is there before it
    /// carries anything out.
    fn end_turn(&mut self, node: usize) {
        let longest = self.options.turn;
        if longest.is_zero() {
            return self.pump(node);
        }
        let pause = self.dice.pause(longest);
        let Some(process) = &mut self.nodes[node].process else { return };
        if !std::mem::replace(&mut process.turn_ends, true) {
            self.calendar.after(pause, Happening::Turn { life: process.life });
        }
    }

    /// The turn ends.
    pub(super) fn turn(&mut self, life: u64) {
        if let Some(node) = self.node_of(life) {
            self.pump(node);
        }
    }

    /// Something for a session.
    pub(super) fn session(&mut self, node: usize, server: ServerId, act: impl FnOnce(&mut Session, Moment)) {
        let now = self.calendar.now();
        let process = self.nodes[node].process.as_mut();
        if let Some(session) = process.and_then(|process| process.sessions.get_mut(&server)) {
            act(session, now);
            self.end_turn(node);
        }
    }

    /// All of a batch is taken before anything of what follows is carried out, as the driver does.
    pub(super) fn written(&mut self, life: u64, outcomes: Vec<(PersistId, Outcome)>) {
        let Some(node) = self.node_of(life) else { return };
        let (now, wall_ms) = (self.calendar.now(), self.wall_ms() + self.nodes[node].wall_ahead_ms);
        let Some(process) = &mut self.nodes[node].process else { return };
        for (id, outcome) in outcomes {
            for server in process.awaited.take(id) {
                let Some(session) = process.sessions.get_mut(&server) else { continue };
                match outcome {
                    Outcome::Applied { .. } => session.stored(now, id),
                    Outcome::Lost { .. } => session.dropped(id),
                }
            }
            process.core.handle(now, wall_ms, Input::Written(id, outcome));
        }
        self.end_turn(node);
    }

    pub(super) fn wake(&mut self, life: u64) {
        let now = self.calendar.now();
        let Some(node) = self.node_of(life) else { return };
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.wakes_at.is_some_and(|at| at <= now) {
            process.wakes_at = None;
        }
        for session in process.sessions.values_mut() {
            if session.next_wake().is_some_and(|(at, _)| at <= now) {
                session.wake(now);
            }
        }
        self.probe_cache(node);
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.core.next_wake().is_some_and(|at| at <= now) {
            return self.input_at(node, Input::Wake);
        }
        self.pump(node);
    }

    /// Carries out outputs until nobody has anything more to say, then lets packets and batches leave.
    pub(super) fn pump(&mut self, node: usize) {
        if self.nodes[node].is_paused(self.calendar.now()) {
            return;
        }
        let Some(mut process) = self.nodes[node].process.take() else { return };
        process.turn_ends = false;
        let interrupt = self.think(node, &mut process);
        if let Some(Interrupt::Pause(span)) = interrupt {
            self.nodes[node].process = Some(process);
            return self.pause(node, span);
        }
        // Rule 5: asked as late as can be, just before packets are handed over.
        let may_command = process.lease.may_command(self.calendar.now());
        if let Some(Interrupt::PauseInSend(span)) = interrupt {
            self.nodes[node].paused_until = self.calendar.now() + span;
            self.calendar.at(self.nodes[node].paused_until, Happening::Wake { life: process.life });
        }
        let most = if let Some(Interrupt::Kill { sends }) = interrupt { sends } else { usize::MAX };
        let closing = self.hand_over(node, &mut process, may_command, most);
        self.begin_batches(&mut process);
        self.begin_cache_run(&mut process);
        self.nodes[node].process = Some(process);
        for (server, redial) in closing {
            self.close_link(node, server, redial);
        }
        if let Some(Interrupt::Kill { .. }) = interrupt {
            return self.crash(node);
        }
        self.tend_lease(node);
        self.arm(node);
    }

    /// Cores and sessions talk until they have nothing more to say, or something happens to the process meanwhile.
    fn think(&mut self, node: usize, process: &mut Process) -> Option<Interrupt> {
        loop {
            let mut quiet = true;
            while let Some(output) = process.core.poll() {
                quiet = false;
                process.outputs += 1;
                tracing::trace!(at = self.calendar.now().0, life = process.life, ?output);
                self.carry_out(process, output);
                let is_due = |due: &mut Due| {
                    process.outputs >= due.outputs && due.drawn.is_none_or(|(life, _)| life == process.life)
                };
                if let Some(due) = self.nodes[node].interrupt.take_if(is_due) {
                    self.fault(due.fault);
                    if let (Interrupt::Kill { .. }, Some((_, pause))) = (due.interrupt, due.drawn) {
                        self.calendar.after(pause, Happening::Boot { node });
                    }
                    return Some(due.interrupt);
                }
            }
            let (now, wall_ms) = (self.calendar.now(), self.wall_ms() + self.nodes[node].wall_ahead_ms);
            let Process { core, sessions, boots, .. } = &mut *process;
            for (server, session) in sessions {
                while let Some(heard) = session.poll_heard() {
                    quiet = false;
                    if let Heard::Up { boot, .. } = &heard {
                        boots.insert(*server, *boot);
                    }
                    tracing::trace!(at = now.0, server = server.0, ?heard);
                    core.handle(now, wall_ms, Input::Heard(*server, heard));
                }
            }
            if quiet {
                return None;
            }
        }
    }

    /// Packets leave, so many at most; the sessions that want their links closed are answered.
    fn hand_over(
        &mut self,
        node: usize,
        process: &mut Process,
        may_command: bool,
        most: usize,
    ) -> Vec<(ServerId, Option<Duration>)> {
        let mut closing = Vec::new();
        let (lease_ends, mut left) = (process.lease_ends, most);
        for (server, session) in &mut process.sessions {
            let connection = self.wire(node, *server).and_then(|wire| wire.connection);
            while let Some(packet) = session.poll_packet() {
                if commands(&packet.message) {
                    if !may_command {
                        continue;
                    }
                    self.check_self_stop(lease_ends, *server, &packet);
                    self.check_sent(process.core.token(), *server, &packet);
                }
                if let Some(connection) = connection.filter(|_| left > 0) {
                    left -= 1;
                    self.carry(node, *server, connection, Way::ToServer, packet);
                }
            }
            if session.wants_close().is_some() && connection.is_some() {
                closing.push((*server, session.redial_after()));
            }
        }
        closing
    }

    fn arm(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let sessions = process.sessions.values().filter_map(|session| session.next_wake().map(|(at, _)| at));
        let Some(at) =
            sessions.chain(process.core.next_wake()).chain(process.lease.next_wake()).chain(process.probes_at).min()
        else {
            return;
        };
        if process.wakes_at.is_none_or(|armed| at < armed) {
            process.wakes_at = Some(at);
            self.calendar.at(at, Happening::Wake { life: process.life });
        }
    }

    fn carry_out(&mut self, process: &mut Process, output: Output) {
        let now = self.calendar.now();
        match output {
            Output::Persist { id, lane, unit } => {
                let made = unit.writes.iter().filter(|write| matches!(write, Write::NewLeg(_))).filter_map(Write::leg);
                process.read.extend(made);
                process.lanes.push(lane, id, unit);
            }
            Output::Ask { server, ticket, request, after } => {
                if let Some(id) = after {
                    process.awaited.add(id, server);
                }
                if let Some(session) = process.sessions.get_mut(&server) {
                    session.ask(now, ticket, request, after);
                }
            }
            Output::Acknowledge { server, number } => {
                let boot = process.boots.get(&server).copied();
                if self.check_acknowledged {
                    self.check_told(server, boot, process.core.token(), number);
                }
                self.check_ends_acknowledged(process.core.token(), server, boot, number);
                if let Some(session) = process.sessions.get_mut(&server) {
                    session.acknowledge(number);
                }
            }
            Output::Read { id, read } => {
                *process.reads.entry(kind(&read)).or_default() += 1;
                process.reads_open += 1;
                self.check_key_source(process, &read);
                let pause = self.dice.pause(self.options.store_delay);
                self.calendar.after(pause, Happening::ReadBegins { life: process.life, id, read });
            }
            Output::Cache(task) => {
                if let Some(behind) = process.cache_queue.push(now, task) {
                    process.core.handle(now, self.wall_ms(), behind);
                }
            }
            Output::Answer(waiter, answer) => {
                if let Some((client, _)) = process.waiters.remove(&waiter) {
                    let (pause, term) = (self.dice.pause(self.options.delay), process.core.token());
                    self.calendar.after(pause, Happening::ClientHears { client, term, answer });
                }
            }
            Output::Publish(published) => {
                self.check_published(process, &published);
                process.published.push(published);
            }
            Output::Alarm(alarm) => process.alarms.push(alarm),
            // An operator is shown it.
            Output::Planned { .. } => {}
            Output::AlarmOver(alarm) => process.alarms_over.push(alarm),
            // Another scheduler's, or one that the store has lost: it is asked whether the own term stands.
            Output::NewerToken { server, token } => {
                process.lease.evidence(now, server, token.epoch);
            }
        }
    }

    /// What a read finds, as of now; its answer takes a while more.
    pub(super) fn read(&mut self, life: u64, id: ReadId, read: &Read) {
        let cached = matches!(read, Read::CachedKeys(_) | Read::Stamps(_) | Read::CachedNames(_));
        let down = !cached && self.is_store_away(self.node_of(life));
        let (result, pause) = if down {
            (Err("the store is down".to_owned()), Duration::from_secs(3))
        } else {
            (self.evaluate(read), self.dice.pause(self.options.read_delay))
        };
        self.note_read(life, &result);
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
