//! Goal: whatever a network loses, doubles, delays, reorders or cuts, the same comes of it; and whatever a
//! server sends, nothing breaks on this side.
//!
//! Method: a session and a small server in virtual time, joined by a seeded network. Every packet goes
//! through the codec. A failing seed is printed and replays exactly.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::manual_is_multiple_of)]

use crate::session_server::Server;
use crate::session_talk::*;
use bytes::BytesMut;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet::model::Moment;
use remeet::session::{Heard, Identity, PersistId, Request, RequestError, Session, Settings, Ticket};
use remeet_protocol::message::*;
use remeet_protocol::packet::Header;
use remeet_protocol::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_util::codec::{Decoder, Encoder};

/// What a network does to packets.
#[derive(Clone, Copy)]
struct Faults {
    loss: f64,
    double: f64,
    delay_us: u64,
    cut: f64,
}

const PERFECT: Faults = Faults { loss: 0.0, double: 0.0, delay_us: 1, cut: 0.0 };

struct World {
    rng: ChaCha8Rng,
    faults: Faults,
    now: Moment,
    session: Session,
    server: Server,
    /// (arrives at, number) → (to the server, connection, bytes).
    wire: BTreeMap<(Moment, u64), (bool, u64, BytesMut)>,
    sent: u64,
    connection: Option<u64>,
    connections: u64,
    asker: Asker,
}

/// Asks until everything is answered, as the recovery would.
#[derive(Default)]
struct Asker {
    tickets: u64,
    open: BTreeMap<Ticket, Request>,
    stores: BTreeMap<PersistId, Moment>,
    persists: u64,
    inventory: Vec<u64>,
    taken: BTreeSet<u64>,
    pulled: BTreeMap<u64, BTreeSet<u64>>,
    whole: BTreeSet<u64>,
    commanded: BTreeSet<u64>,
    events: Vec<u64>,
    lost: BTreeSet<u64>,
    misbehaved: Vec<String>,
}

impl World {
    fn new(seed: u64, faults: Faults, legs: u64) -> Self {
        let identity = Identity {
            domain: DomainId(1),
            name: "scheduler".into(),
            holder: Holder::from_bytes([5; 16]),
            server: SERVER,
        };
        let first_event_wait = Duration::from_millis(if faults.loss > 0.0 { 1_000 } else { 0 });
        let stream = faults.loss == 0.0;
        let settings = Settings { seed, stream, first_event_wait, ..Settings::default() };
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            faults,
            now: Moment(0),
            session: Session::new(identity, settings),
            server: Server::new(SERVER, legs),
            wire: BTreeMap::new(),
            sent: 0,
            connection: None,
            connections: 0,
            asker: Asker::default(),
        }
    }

    fn send(&mut self, to_server: bool, packet: &Packet) {
        let mut bytes = BytesMut::new();
        PacketCodec::datagram().encode(packet, &mut bytes).unwrap();
        let copies = if self.rng.random_bool(self.faults.loss) { 0 } else { 1 };
        let copies = copies + usize::from(self.rng.random_bool(self.faults.double));
        for _ in 0..copies {
            self.sent += 1;
            let at = Moment(self.now.0 + self.rng.random_range(1..=self.faults.delay_us));
            let connection = self.connection.unwrap_or(0);
            self.wire.insert((at, self.sent), (to_server, connection, bytes.clone()));
        }
    }

    fn flush(&mut self) {
        while let Some(packet) = self.session.poll_packet() {
            self.send(true, &packet);
        }
        while let Some(heard) = self.session.poll_heard() {
            self.hear(heard);
        }
        if let Some(reason) = self.session.wants_close().map(str::to_owned) {
            self.cut(&reason);
        }
    }

    fn cut(&mut self, reason: &str) {
        self.connection = None;
        self.server.disconnected();
        self.session.disconnected(self.now, reason);
        while let Some(heard) = self.session.poll_heard() {
            self.hear(heard);
        }
    }

    fn ask(&mut self, request: Request, after: Option<PersistId>) {
        self.asker.tickets += 1;
        let ticket = Ticket(self.asker.tickets);
        self.asker.open.insert(ticket, request.clone());
        self.session.ask(self.now, ticket, request, after);
    }

    fn command(&mut self, handle: u64) {
        self.asker.persists += 1;
        let id = PersistId(self.asker.persists);
        self.asker.stores.insert(id, Moment(self.now.0 + self.rng.random_range(0..50_000)));
        self.ask(Request::Command(command(handle, 1)), Some(id));
    }

    fn pull(&mut self, handle: u64) {
        self.ask(Request::Pull { handle: Handle(handle), leg: leg(handle), since: 0 }, None);
    }

    fn hear(&mut self, heard: Heard) {
        if let Some((ticket, error)) = error_of(&heard) {
            assert!(
                matches!(error, RequestError::LinkLost | RequestError::NoAnswer)
                    || matches!(error, RequestError::Refused(failure) if failure.code == ErrorCode::NOT_ATTACHED),
                "{heard:?}"
            );
            assert!(self.asker.open.contains_key(&ticket), "{ticket:?} is answered twice");
        }
        match heard {
            Heard::Up { .. } => self.ask(Request::Inventory, None),
            Heard::Down { .. } => {
                self.asker.open.clear();
                self.asker.stores.clear();
            }
            Heard::Inventory(ticket, answer) => {
                self.asker.open.remove(&ticket);
                match answer {
                    Ok(inventory) => {
                        self.asker.inventory = inventory.entries.iter().map(|entry| entry.handle.0).collect();
                        self.ask(Request::Attach(Server::token_of_first_term()), None);
                    }
                    Err(_) if self.session.is_up() => self.ask(Request::Inventory, None),
                    Err(_) => {}
                }
            }
            Heard::Attached(ticket, answer) => {
                self.asker.open.remove(&ticket);
                let missing: Vec<u64> =
                    self.asker.inventory.iter().copied().filter(|h| !self.asker.taken.contains(h)).collect();
                if answer.is_ok() {
                    self.ask(Request::Takeover(missing.iter().map(|handle| claim(*handle)).collect()), None);
                    for handle in self.asker.taken.clone() {
                        self.go_on(handle);
                    }
                } else if self.session.is_up() {
                    self.ask(Request::Attach(Server::token_of_first_term()), None);
                }
            }
            Heard::Takeover(_, Ok(results)) => {
                for result in results.results {
                    assert_eq!(result.code, ErrorCode::OK);
                    let handle = result.handle.0;
                    assert!(self.asker.taken.insert(handle), "leg {handle} is answered twice");
                    self.go_on(handle);
                }
            }
            Heard::Takeover(_, Err((legs, _))) if self.session.is_up() => {
                let claims = legs.iter().map(|leg| claim(leg.meeting.0.as_u128() as u64)).collect();
                self.ask(Request::Takeover(claims), None);
            }
            Heard::Takeover(..) => {}
            Heard::Pulled(ticket, answer) => {
                let Some(Request::Pull { handle, .. }) = self.asker.open.get(&ticket).cloned() else {
                    panic!("{ticket:?} is not open")
                };
                match answer {
                    Ok(page) => {
                        let pulled = self.asker.pulled.entry(handle.0).or_default();
                        pulled.extend(page.changes.iter().map(|change| change.revision));
                        if page.complete.is_some() {
                            self.asker.open.remove(&ticket);
                            self.asker.whole.insert(handle.0);
                        }
                    }
                    Err(_) => {
                        self.asker.open.remove(&ticket);
                        if self.session.is_up() {
                            self.pull(handle.0);
                        }
                    }
                }
            }
            Heard::Commanded(ticket, answer) => {
                let Some(Request::Command(asked)) = self.asker.open.remove(&ticket) else {
                    panic!("{ticket:?} is not open")
                };
                if answer.is_ok() {
                    self.asker.commanded.insert(asked.handle.0);
                } else if self.session.is_up() {
                    self.command(asked.handle.0);
                }
            }
            Heard::Event(event) => {
                assert!(self.asker.events.last().is_none_or(|last| *last < event.number), "events in order, once");
                self.asker.events.push(event.number);
                self.session.acknowledge(event.number);
            }
            Heard::Gap(gap) => {
                self.asker.lost.extend(gap.first..=gap.last);
                self.session.acknowledge(gap.last);
            }
            Heard::Misbehaved { reason } => self.asker.misbehaved.push(reason),
            Heard::Adopted(..) => panic!("nothing was adopted"),
        }
    }

    fn go_on(&mut self, handle: u64) {
        if !self.asker.whole.contains(&handle) {
            self.pull(handle);
        }
        if !self.asker.commanded.contains(&handle) {
            self.command(handle);
        }
    }

    fn is_done(&self) -> bool {
        let legs = self.server.legs.len();
        self.asker.taken.len() == legs
            && self.asker.whole.len() == legs
            && self.asker.commanded.len() == legs
            && self.server.events.is_empty()
    }

    /// Runs until everything is answered.
    fn run(&mut self) {
        let mut next_change = Moment(0);
        let mut changes = 0;
        while !(changes == 300 && self.is_done()) {
            assert!(self.now < Moment(600_000_000), "not done after 600 s");
            if self.connection.is_none() {
                self.connections += 1;
                self.connection = Some(self.connections);
                self.session.connected(self.now);
                self.flush();
            }
            let wire = self.wire.keys().next().map(|(at, _)| *at);
            let wake = self.session.next_wake().map(|(at, _)| at);
            let store = self.asker.stores.values().min().copied();
            let server = Some(Moment(self.now.0 + 20_000));
            let next = [wire, wake, store, server, (changes < 300).then_some(next_change)];
            self.now = self.now.max(next.into_iter().flatten().min().unwrap());
            if changes < 300 && next_change <= self.now {
                self.server.change();
                changes += 1;
                next_change = Moment(self.now.0 + 5_000);
            }
            self.deliver();
            for packet in self.server.wake(self.now) {
                self.send(false, &packet);
            }
            let due: Vec<_> = self.asker.stores.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| *id).collect();
            for id in due {
                self.asker.stores.remove(&id);
                self.session.stored(self.now, id);
            }
            self.session.wake(self.now);
            let next = self.session.next_wake();
            assert!(next.is_none_or(|(due, _)| due > self.now), "due after its wake: {next:?}");
            self.flush();
            if self.connection.is_some() && self.rng.random_bool(self.faults.cut) {
                self.cut("the test cut it");
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= self.now
        {
            let (to_server, connection, mut bytes) = entry.remove();
            let incoming = PacketCodec::datagram().decode(&mut bytes).unwrap().unwrap();
            if to_server {
                // A datagram of an older connection may still arrive: its session is refused.
                for answer in self.server.answer(incoming.unwrap()) {
                    self.send(false, &answer);
                }
            } else if self.connection.is_some() {
                let _late_ones_too = connection;
                self.session.packet(self.now, incoming);
                self.flush();
            }
        }
    }

    fn check(&self) {
        let legs: Vec<u64> = self.server.legs.keys().copied().collect();
        assert_eq!(self.asker.inventory, legs);
        for (handle, revisions) in &self.server.legs {
            let pulled: Vec<u64> = self.asker.pulled[handle].iter().copied().collect();
            assert_eq!(pulled, *revisions, "leg {handle}");
        }
        let mut executed = self.server.executed.clone();
        executed.sort_unstable();
        assert_eq!(executed, legs.iter().map(|handle| (*handle, 1)).collect::<Vec<_>>(), "each command once");
        let heard: BTreeSet<u64> = self.asker.events.iter().chain(&self.asker.lost).copied().collect();
        assert_eq!(heard, (1..=300).collect(), "every event is heard or known to be missing");
    }
}

#[test]
fn on_a_perfect_network_nothing_is_repeated_and_nothing_is_missing() {
    let mut world = World::new(1, PERFECT, 300);
    world.run();
    world.check();
    assert_eq!(world.asker.events, (1..=300).collect::<Vec<_>>());
    assert_eq!((world.asker.lost.len(), world.session.counters().retries), (0, 0));
    assert_eq!(world.asker.misbehaved, Vec::<String>::new());
    assert!(world.now < Moment(10_000_000), "{:?}", world.now);
}

#[test]
fn rule_11_lost_doubled_and_reordered_packets_come_to_the_same() {
    for seed in 0..25 {
        println!("seed {seed}");
        let faults = Faults { loss: 0.1, double: 0.1, delay_us: 40_000, cut: 0.0 };
        let mut world = World::new(seed, faults, 120);
        world.run();
        world.check();
        assert!(world.session.counters().retries > 0);
    }
}

#[test]
fn rule_11_cut_links_come_to_the_same() {
    for seed in 100..120 {
        println!("seed {seed}");
        let faults = Faults { loss: 0.02, double: 0.05, delay_us: 10_000, cut: 0.002 };
        let mut world = World::new(seed, faults, 120);
        world.run();
        world.check();
        assert!(world.connections > 1);
    }
}

#[test]
fn the_same_seed_gives_the_same_conversation() {
    let run = || {
        let faults = Faults { loss: 0.1, double: 0.1, delay_us: 40_000, cut: 0.001 };
        let mut world = World::new(7, faults, 60);
        world.run();
        (world.now, world.sent, world.session.counters().clone(), world.asker.events.clone())
    };
    assert_eq!(run(), run());
}

/// One thing that may happen to a session: what, and two numbers that say which.
type Act = (u8, u8, u8);

/// A message of a server, right or wrong: every type, with numbers that come near what is open.
fn message(a: u8, b: u8) -> Message {
    let handles: Vec<u64> = (0..u64::from(b % 4)).map(|n| u64::from(a % 8) + n).collect();
    let number = u64::from(b % 16);
    match a % 18 {
        0 => welcome().into(),
        1 => Welcome { keep_alive_ms: u32::from(b), ..welcome() }.into(),
        2 => Failure { retry_after_ms: u32::from(b), ..Failure::new(ErrorCode(u16::from(b % 26)), "x") }.into(),
        3 => InventoryPage { cut: number, entries: handles.iter().map(|handle| entry(*handle)).collect() }.into(),
        4 => InventoryEnd {
            cut: number,
            table_revision: 9,
            boot: boot(),
            after: number,
            page_entries: u32::from(b % 4),
            complete: b % 2 == 0,
            total: u64::from(b % 8),
        }
        .into(),
        5 => Attached { session: u64::from(b % 3) + SESSION - 1, ..attached() }.into(),
        6 => results(&handles).into(),
        7 => PullPage { leg: leg(1), changes: handles.iter().map(|n| change(*n)).collect() }.into(),
        8 => PullEnd {
            leg: leg(u64::from(b % 2)),
            full: b % 3 == 0,
            upto: remeet_protocol::record::Mark { revision: number, ..Default::default() },
            after: number,
            page_changes: u32::from(b % 4),
            complete: b % 2 == 0,
        }
        .into(),
        9 => command_answer(&command(u64::from(b % 4), u64::from(b % 3))).into(),
        10 | 11 => event(number).into(),
        12 => EventGap { first: number, last: u64::from(b) / 4 }.into(),
        13 => EventGap { first: u64::MAX - number, last: u64::MAX }.into(),
        14 => KeepAlive {}.into(),
        15 => Message::Unknown { kind: 0x0777, body: bytes::Bytes::new() },
        16 if b % 16 == 0 => Goodbye { code: ErrorCode::OK, detail: Default::default(), retry_after_ms: 5 }.into(),
        16 => KeepAliveAnswer { table_revision: 1 }.into(),
        _ if b % 16 == 0 => Attached { boot: BootId::from_bytes([9; 16]), ..attached() }.into(),
        _ => Query { cut: 0, after: 0, packets_max: 1 }.into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: no panic, no timer that is due for ever, and every request is
    /// answered once, by the time the link is down at the latest, unless what it awaited was dropped.
    #[test]
    fn any_sequence_of_packets_and_calls_leaves_no_request_unanswered_or_answered_twice(
        acts in prop::collection::vec(any::<Act>(), 0..400)
    ) {
        let stream = acts.len() % 2 == 0;
        let mut talk = Talk::new(Settings { stream, window: 4, pull_window: 2, held_max: 4, commands_max: 4, ..Settings::default() });
        let mut open: BTreeMap<Ticket, usize> = BTreeMap::new();
        let mut tickets = 0;
        let mut dropped: BTreeSet<PersistId> = BTreeSet::new();
        let mut awaiting: BTreeMap<Ticket, PersistId> = BTreeMap::new();
        let mut requests: Vec<u64> = Vec::new();
        for (kind, a, b) in acts {
            match kind % 16 {
                0 => talk.session.connected(talk.now),
                1 if b % 8 == 0 => talk.session.disconnected(talk.now, "cut"),
                2 if b % 16 == 0 => talk.session.broken(talk.now, "wrong CRC"),
                3 => talk.pass_ms(u64::from(a) * 8),
                4 => talk.session.stored(talk.now, PersistId(u64::from(a % 8))),
                5 => {
                    dropped.insert(PersistId(u64::from(a % 8)));
                    talk.session.dropped(PersistId(u64::from(a % 8)));
                }
                6 => talk.session.acknowledge(u64::from(a)),
                7 if b % 16 == 0 => talk.session.lose_control(),
                7..=9 => {
                    let request = match a % 6 {
                        0 => Request::Inventory,
                        1 => Request::Attach(token(1 + u64::from(b % 16 == 0))),
                        2 => Request::Takeover((1..=u64::from(b % 20)).map(claim).collect()),
                        3 => Request::Pull { handle: Handle(1), leg: leg(1), since: u64::from(b % 4) },
                        4 => Request::Command(command(u64::from(b % 4), u64::from(b % 3))),
                        _ => Request::Command(command(1, 1)),
                    };
                    tickets += 1;
                    let ticket = Ticket(tickets);
                    let answers = if let Request::Takeover(claims) = &request { claims.len() } else { 1 };
                    if answers > 0 {
                        open.insert(ticket, answers);
                    }
                    let after = (b % 3 == 0).then_some(PersistId(u64::from(b % 8)));
                    awaiting.extend(after.map(|id| (ticket, id)));
                    talk.session.ask(talk.now, ticket, request, after);
                }
                _ => {
                    let request = requests.get(usize::from(b) % requests.len().max(1)).copied().unwrap_or(0);
                    let flags = Flags(if kind % 4 == 0 { 0 } else { kind & 3 });
                    let session = if b % 8 == 0 { 1 } else { SESSION };
                    let header = Header { flags, session, request, index: u32::from(b % 3) };
                    talk.packet(header, message(a, b));
                }
            }
            for packet in talk.sent() {
                requests.push(packet.header.request);
            }
            for heard in talk.heard() {
                let (ticket, answers) = match &heard {
                    Heard::Takeover(ticket, Ok(results)) => (*ticket, results.results.len()),
                    Heard::Takeover(ticket, Err((legs, _))) => (*ticket, legs.len()),
                    Heard::Pulled(_, Ok(page)) if page.complete.is_none() => continue,
                    Heard::Inventory(ticket, _) | Heard::Attached(ticket, _) | Heard::Pulled(ticket, _)
                    | Heard::Commanded(ticket, _) | Heard::Adopted(ticket, _) => (*ticket, 1),
                    _ => continue,
                };
                let left = open.get_mut(&ticket).unwrap_or_else(|| panic!("{heard:?} answers twice"));
                prop_assert!(*left >= answers, "{:?} answers more than was asked", heard);
                *left -= answers;
                if *left == 0 {
                    open.remove(&ticket);
                }
            }
        }
        talk.session.disconnected(talk.now, "the end");
        for heard in talk.heard() {
            match &heard {
                Heard::Takeover(ticket, Err((legs, _))) => *open.get_mut(ticket).unwrap() -= legs.len(),
                other => {
                    if let Some((ticket, _)) = error_of(other) {
                        prop_assert!(open.remove(&ticket).is_some(), "{:?} answers twice", heard);
                    }
                }
            }
        }
        open.retain(|ticket, left| *left > 0 && awaiting.get(ticket).is_none_or(|id| !dropped.contains(id)));
        prop_assert_eq!(open, BTreeMap::new());
        prop_assert_eq!(talk.session.next_wake(), None);
    }
}
