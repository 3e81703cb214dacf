//! Goal: whatever a network loses, doubles, delays, reorders or cuts, the same comes of it.
//!
//! Method: a session and a small server in virtual time, joined by a seeded network. Every packet goes
//! through the codec. A failing seed is printed; `REMEET_TEST_SEED` replays it exactly.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use crate::session_server::Server;
use crate::session_talk::*;
use bytes::BytesMut;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet::model::Moment;
use remeet::session::{Heard, Identity, PersistId, Request, RequestError, Session, Settings, Ticket};
use remeet_protocol::*;
use std::collections::{BTreeMap, BTreeSet};
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
    /// (arrives at, number) → (to the server, bytes). A cut does not empty it: late packets come too.
    wire: BTreeMap<(Moment, u64), (bool, BytesMut)>,
    sent: u64,
    connected: bool,
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
        let settings = Settings { seed, stream: faults.loss == 0.0, ..Settings::default() };
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            faults,
            now: Moment(0),
            session: Session::new(identity, settings),
            server: Server::new(SERVER, legs),
            wire: BTreeMap::new(),
            sent: 0,
            connected: false,
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
            self.wire.insert((at, self.sent), (to_server, bytes.clone()));
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
        self.connected = false;
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
            Heard::Fenced => panic!("there is one scheduler"),
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
            if !self.connected {
                self.connections += 1;
                self.connected = true;
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
            if self.connected && self.rng.random_bool(self.faults.cut) {
                self.cut("the test cut it");
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= self.now
        {
            let (to_server, mut bytes) = entry.remove();
            let incoming = PacketCodec::datagram().decode(&mut bytes).unwrap().unwrap();
            if to_server {
                // A datagram of an older connection may still arrive: its session is refused.
                for answer in self.server.answer(incoming.unwrap()) {
                    self.send(false, &answer);
                }
            } else if self.connected {
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

/// The seeds of a test, or the one that `REMEET_TEST_SEED` names, to replay a failure.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    match std::env::var("REMEET_TEST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => usual,
    }
}

#[test]
fn rule_11_lost_doubled_and_reordered_packets_come_to_the_same() {
    for seed in seeds(0..25) {
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
    let mut cuts = 0;
    for seed in seeds(100..120) {
        println!("seed {seed}");
        let faults = Faults { loss: 0.02, double: 0.05, delay_us: 10_000, cut: 0.002 };
        let mut world = World::new(seed, faults, 120);
        world.run();
        world.check();
        cuts += world.connections - 1;
    }
    assert!(cuts > 0, "no link was ever cut");
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
