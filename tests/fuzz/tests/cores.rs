//! Goal: whatever a server, the store, the cache, a client or a file says in whatever order, the pure cores neither panic
//! nor run on for ever. Method: a session and the recovery core between a simulated server and a store that answers as
//! the input says; packets are lost, doubled and put in place of others on the way.

use crate::shelf::Shelf;
use bytes::BytesMut;
use remeet::config::{Credentials, Environment, parse};
use remeet::model::Moment;
use remeet::recovery::{CacheTask, Command, Core, Input, Output, Read, ReadId, Rights, Waiter};
use remeet::session::{Identity, PersistId, Request, Session, Ticket};
use remeet::simulator::core as server;
use remeet::store::{CacheOutcome, Outcome, Unit};
use remeet_fuzz::packets::repaired;
use remeet_protocol::message::{
    AddLeg, AddTerminal, AdoptOrphan, ClientCommand, ClientOp, Create, RemoveTerminal, SetDecode, SetExtra, SetRole,
    TerminalRole,
};
use remeet_protocol::record::{DisplayMode, LeaveReason, MediaCodec, Number};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::*;
use std::collections::VecDeque;
use std::time::Duration;
use tokio_util::codec::Decoder;

const SERVER: ServerId = ServerId(1);
const DOMAIN: DomainId = DomainId(1);
const LINK: server::ConnectionId = server::ConnectionId(1);
/// Things that one input may cause: beyond it something runs on for ever.
const CAUSED_MAX: u32 = 50_000;

/// Numbers from the input; zeros when it is used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(self.0.len().min(count));
        self.0 = rest;
        taken
    }
}

/// A server and the way to it and back.
struct Peer {
    core: server::Core,
    up: bool,
    to_server: VecDeque<Packet>,
    to_scheduler: VecDeque<Packet>,
}

impl Peer {
    fn new() -> Self {
        let settings = server::Settings {
            server: SERVER,
            domain: DOMAIN,
            scheduler_domain: DOMAIN,
            name: Text::cut("fuzz"),
            permit_adopt: true,
            event_queue: 20,
            removals: 5,
            keep_alive_ms: 5_000,
            journal: false,
        };
        let core = server::Core::new(settings, BootId::from_bytes([3; 16]), 7);
        Self { core, up: false, to_server: VecDeque::new(), to_scheduler: VecDeque::new() }
    }

    fn flush(&mut self) {
        for output in self.core.take_outputs() {
            if let server::Output::Send(_, packet) = output {
                self.to_scheduler.push_back(packet);
            }
        }
    }

    fn arrive(&mut self, now_ms: u64) {
        if let Some(packet) = self.to_server.pop_front().filter(|_| self.up) {
            self.core.receive(now_ms, LINK, packet);
            self.flush();
        }
    }

    /// Another packet in place of the next one: its frame and numbers, and a message from the input.
    fn replaced(&mut self, body: &[u8]) -> Option<Incoming> {
        let next = self.to_scheduler.pop_front()?;
        let other = PacketCodec::stream().decode(&mut BytesMut::from(&repaired(body)[..])).ok()??;
        Some(other.map(|other| Packet { message: other.message, ..next }))
    }

    fn hang_up(&mut self) {
        self.up = false;
        self.core.disconnect(LINK);
        self.to_server.clear();
        self.to_scheduler.clear();
    }
}

struct Rig {
    now: Moment,
    peer: Peer,
    session: Session,
    core: Core,
    /// The scheduler's life: its epoch.
    life: u64,
    shelf: Shelf,
    persists: VecDeque<(PersistId, Unit)>,
    reads: VecDeque<(ReadId, Read)>,
    caching: VecDeque<LegId>,
    caused: u32,
}

impl Rig {
    fn new() -> Self {
        Self {
            now: Moment(0),
            peer: Peer::new(),
            session: session(),
            core: core(1),
            life: 1,
            shelf: Shelf::default(),
            persists: VecDeque::new(),
            reads: VecDeque::new(),
            caching: VecDeque::new(),
            caused: 0,
        }
    }

    /// The scheduler dies, with what it had not stored, and starts anew.
    fn restart(&mut self) {
        self.peer.hang_up();
        self.life += 1;
        (self.session, self.core) = (session(), core(self.life));
        self.persists.clear();
        self.reads.clear();
        self.caching.clear();
        self.input(Input::TermBegan(self.token()));
        self.connect();
    }

    fn token(&self) -> Token {
        Token { epoch: Epoch(self.life), holder: Holder::from_bytes([9; 16]) }
    }

    fn input(&mut self, input: Input) {
        self.core.handle(self.now, self.now.0 / 1_000, input);
        self.pump();
    }

    fn pump(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.core.poll() {
                quiet = false;
                self.caused += 1;
                match output {
                    Output::Persist { id, unit, .. } => self.persists.push_back((id, unit)),
                    Output::Cache(CacheTask::Write(write)) => self.caching.push_back(write.head.leg),
                    Output::Cache(CacheTask::Refill(head)) => self.caching.push_back(head.leg),
                    Output::Ask { ticket, request, after, .. } => self.session.ask(self.now, ticket, request, after),
                    Output::Acknowledge { number, .. } => self.session.acknowledge(number),
                    Output::Read { id, read } => self.reads.push_back((id, read)),
                    _ => {}
                }
            }
            while let Some(heard) = self.session.poll_heard() {
                quiet = false;
                self.caused += 1;
                self.core.handle(self.now, self.now.0 / 1_000, Input::Heard(SERVER, heard));
            }
            assert!(self.caused < CAUSED_MAX, "one input caused {} things", self.caused);
            if quiet {
                break;
            }
        }
        while let Some(packet) = self.session.poll_packet() {
            self.peer.to_server.push_back(packet);
        }
        if self.session.wants_close().is_some() && self.peer.up {
            self.peer.hang_up();
            self.session.disconnected(self.now, "closed");
            self.pump();
        }
    }

    fn connect(&mut self) {
        if !self.peer.up {
            self.peer.up = true;
            self.peer.core.connect(LINK);
            self.session.connected(self.now);
            self.pump();
        }
    }

    /// The first, or another if lanes overtake one another, is stored; or lost, though it fitted.
    fn written(&mut self, applied: bool, other: bool) {
        let place = usize::from(other && self.persists.len() > 1);
        if let Some((id, unit)) = self.persists.remove(place) {
            let outcome = if applied { self.shelf.write(&unit) } else { Outcome::Lost { version: 9 } };
            match outcome {
                Outcome::Applied { .. } => self.session.stored(self.now, id),
                Outcome::Lost { .. } => self.session.dropped(id),
            }
            self.input(Input::Written(id, outcome));
        }
    }

    fn cached(&mut self, how: u8) {
        if let Some(leg) = self.caching.pop_front() {
            let outcome = match how % 8 {
                0 => return self.input(Input::Cached(vec![leg], Err("away".to_owned()))),
                1 => CacheOutcome::Stale,
                2 => CacheOutcome::Lost,
                _ => CacheOutcome::Applied,
            };
            self.input(Input::Cached(vec![leg], Ok(vec![outcome])));
        }
    }

    fn read(&mut self, answers: bool) {
        let Some((id, read)) = self.reads.pop_front() else { return };
        let result = if answers { Ok(self.shelf.read(&read)) } else { Err("away".to_owned()) };
        self.input(Input::Read(id, result));
    }

    fn command(&mut self, what: u8, which: u8) {
        let meeting = MeetingId::from_bytes([which % 3 + 1; 16]);
        let op = match what % 6 {
            0 | 1 => ClientOp::Create(Create {
                meeting,
                server: SERVER,
                number: Text::cut("1"),
                title: Text::cut("fuzz"),
                creator: Text::cut("2"),
                creator_name: Text::cut("f"),
            }),
            2 => ClientOp::Start,
            3 => ClientOp::End,
            4 if which < 128 => ClientOp::Mark(true),
            4 => on_terminal(which),
            _ => {
                let (handle, leg) = (Handle(u64::from(which)), LegId { meeting, leg: 0 });
                ClientOp::Adopt(AdoptOrphan { server: SERVER, handle, leg, end: which.is_multiple_of(2) })
            }
        };
        let command = ClientCommand { instance: 1, number: u64::from(what / 6), meeting, op };
        let rights = Rights { control: true, operator: true };
        self.input(Input::Command(Command { waiter: Waiter(u64::from(what)), rights, command }));
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        self.caused = 0;
        let now_ms = self.now.0 / 1_000;
        match bytes.next() % 16 {
            0 => self.connect(),
            1..4 => {
                self.peer.arrive(now_ms);
            }
            4..7 => {
                if let Some(packet) = self.peer.to_scheduler.pop_front() {
                    self.session.packet(self.now, Ok(packet));
                    self.pump();
                }
            }
            7 => {
                let count = usize::from(bytes.next());
                let body = bytes.take(count).to_vec();
                if let Some(incoming) = self.peer.replaced(&body) {
                    self.session.packet(self.now, incoming);
                    self.pump();
                }
            }
            8 => {
                // Lost, or doubled.
                match bytes.next() % 4 {
                    0 => drop(self.peer.to_scheduler.pop_front()),
                    1 => drop(self.peer.to_server.pop_front()),
                    2 => self.peer.to_scheduler.extend(self.peer.to_scheduler.front().cloned()),
                    _ => self.peer.to_server.extend(self.peer.to_server.front().cloned()),
                }
            }
            9 => {
                self.now = self.now + Duration::from_millis(u64::from(bytes.next()) * 40);
                self.session.wake(self.now);
                self.input(Input::Wake);
            }
            10 => {
                let how = bytes.next();
                self.written(!how.is_multiple_of(8), how & 0x40 != 0);
            }
            11 => {
                let answers = !bytes.next().is_multiple_of(8);
                self.read(answers);
            }
            12 => {
                let (what, which) = (bytes.next(), bytes.next());
                self.command(what, which);
            }
            13 => match bytes.next() {
                how if how.is_multiple_of(4) => {
                    self.peer.hang_up();
                    self.session.disconnected(self.now, "cut");
                    self.pump();
                }
                how if how % 4 == 1 => {
                    let leg = LegId { meeting: MeetingId::from_bytes([how / 4 % 3 + 1; 16]), leg: 0 };
                    self.input(Input::LiftQuarantine(Waiter(u64::from(how)), leg));
                }
                how if how % 4 == 2 => self.input(Input::DryRun(Waiter(u64::from(how)), vec![SERVER])),
                _ => self.input(Input::Reconcile(None)),
            },
            14 => {
                // It may have no room.
                let _ = self.peer.core.create_foreign(now_ms, None, 1);
                self.peer.core.overflow_events();
                self.peer.flush();
            }
            15 if bytes.0.first().is_some_and(|how| how % 16 == 15) => self.restart(),
            15 => {
                let how = bytes.next();
                self.cached(how);
            }
            16.. => unreachable!("one of sixteen"),
        }
    }
}

/// What is done to a terminal, or to the meeting's legs.
fn on_terminal(which: u8) -> ClientOp {
    let number: Number = Text::cut(&format!("{}", which / 8 % 3));
    match which % 8 {
        0 | 1 => ClientOp::AddTerminal(AddTerminal { number, home_domain: DOMAIN, name: Text::cut("t") }),
        2 => ClientOp::RemoveTerminal(RemoveTerminal { number, reason: LeaveReason::Removed }),
        3 => ClientOp::SetRole(SetRole { number, role: TerminalRole::Chair }),
        4 => ClientOp::SetDecode(SetDecode {
            number,
            display_mode: DisplayMode::Single,
            output: Text::cut("1"),
            codec: MediaCodec::H264,
            windows: Vec::new(),
        }),
        5 | 6 => ClientOp::SetExtra(SetExtra { number, key: Text::cut("k"), value: Blob::new("v").ok() }),
        _ => ClientOp::AddLeg(AddLeg { leg: u16::from(which / 8 % 3), server: SERVER }),
    }
}

fn session() -> Session {
    let holder = Holder::from_bytes([9; 16]);
    let identity = Identity { domain: DOMAIN, name: "fuzz".to_owned(), holder, server: SERVER };
    Session::new(identity, remeet::session::Settings::default())
}

fn core(life: u64) -> Core {
    let [.., seed] = life.to_be_bytes();
    Core::new(remeet::recovery::Settings::default(), &[(SERVER, DOMAIN)], [seed; 32])
}

#[test]
fn the_recovery_core_stands_any_sequence_of_inputs() {
    bolero::check!().for_each(|input: &[u8]| {
        let mut rig = Rig::new();
        let mut bytes = Bytes(input);
        rig.input(Input::TermBegan(rig.token()));
        rig.connect();
        while !bytes.0.is_empty() {
            rig.step(&mut bytes);
        }
        for view in rig.core.server_views() {
            for report in view.reports.values() {
                assert!(report.adds_up(), "rule 6: {report:?}");
            }
        }
    });
}

#[test]
fn a_session_stands_any_sequence_of_packets_and_calls() {
    bolero::check!().for_each(|input: &[u8]| {
        let mut rig = Rig::new();
        let mut bytes = Bytes(input);
        rig.connect();
        let mut ticket = 1_000_000;
        while !bytes.0.is_empty() {
            let (what, which) = (bytes.next(), bytes.next());
            rig.caused = 0;
            ticket += 1;
            let handle = Handle(u64::from(which % 8));
            let leg = LegId { meeting: MeetingId::from_bytes([which % 4; 16]), leg: 0 };
            let after = which.is_multiple_of(5).then_some(PersistId(u64::from(which)));
            match what % 12 {
                0 => rig.session.ask(rig.now, Ticket(ticket), Request::Inventory, after),
                1 => rig.session.ask(rig.now, Ticket(ticket), Request::Attach(rig.token()), after),
                2 => rig.session.ask(rig.now, Ticket(ticket), Request::Pull { handle, leg, since: 0 }, after),
                3 => rig.session.stored(rig.now, PersistId(u64::from(which))),
                4 => rig.session.dropped(PersistId(u64::from(which))),
                5 => rig.session.acknowledge(u64::from(which)),
                6 => rig.session.farewell(rig.now, "fuzz"),
                _ => rig.step(&mut bytes),
            }
            // Only the session is of interest: what it says goes nowhere.
            while rig.session.poll_heard().is_some() {}
            rig.pump();
        }
    });
}

const VARIABLES: [&str; 10] = [
    "REMEET_SCHEDULER__NODE",
    "REMEET_SCHEDULER__DOMAIN",
    "REMEET_STORE__URL",
    "REMEET_CACHE__URL",
    "REMEET_LINK__LISTEN",
    "REMEET_RECOVERY__RECONCILE_EVERY",
    "REMEET_LOG__FORMAT",
    "REMEET_SERVERS__1",
    "REMEET_NOBODY__KNOWS",
    "REMEET___",
];

#[test]
fn a_configuration_is_read_or_refused_with_every_problem_named() {
    bolero::check!().for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        // Its last line is a variable's value, too.
        let value = text.lines().last().unwrap_or_default().to_owned();
        let name = VARIABLES[text.len() % VARIABLES.len()].to_owned();
        let environment = Environment::from([(name, value)]);
        for environment in [Environment::new(), environment] {
            let Err(error) = parse(&text, &environment, &Credentials::default()) else { continue };
            let said = error.to_string();
            assert!(!error.problems().is_empty(), "{said}");
            for problem in error.problems() {
                assert!(!problem.place.is_empty() && !problem.text.is_empty(), "{said}");
                assert!(said.contains(&problem.to_string()), "{problem} is not in {said}");
            }
        }
    });
}
