//! The simulated server without its sockets: packets and commands in, packets out. Time and randomness
//! are arguments, nothing here reads a clock or touches a file, so the same inputs give the same outputs.
//!
//! ```text
//!  connect, receive, reject, disconnect ─┐            ┌─> outputs: Send, Close
//!  act (control socket, script) ─────────┤─> Core ────┤
//!                                        │            └─> journal: bytes to write before the outputs go
//!  restore (snapshot + journal) ─────────┘
//! ```
//!
//! Calling order: after any input the driver takes the journal's bytes, writes them, then takes the
//! outputs and sends them in their order.
//!
//! - [`leg`], [`table`] – the truth: legs, their records, revisions and digests.
//! - `attach`, `takeover`, `command` – who may command, and commands; [`window`] – request ids.
//! - `inventory`, `pull` – reading; [`events`] – telling.
//! - `roster`, [`script`] – what commands, and life itself, do to terminals.
//! - [`journal`], `restore` – what survives a restart. [`dump`], [`stats`] – what tests look at.

mod act;
mod attach;
mod command;
pub mod dump;
pub mod events;
mod inventory;
pub mod journal;
pub mod leg;
mod pull;
mod restore;
mod roster;
pub mod script;
pub mod stats;
pub mod table;
mod takeover;
pub mod window;

#[cfg(test)]
mod tests;

use self::attach::Session;
use self::events::EventQueue;
use self::inventory::Cuts;
use self::journal::{Entry, Journal};
use self::pull::Pulls;
use self::stats::Stats;
use self::table::Table;
use self::window::Window;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{EndCause, Event, Failure, Goodbye, Hello, KeepAliveAnswer, Message, Role, Welcome};
use remeet_protocol::packet::{BODY_BYTES_MAX, Flags, Header, Packet, VERSION};
use remeet_protocol::wire::{Text, Wire};
use remeet_protocol::{Address, BootId, DomainId, ErrorCode, Handle, Rejected, ServerId, Token};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

pub use self::act::ActError;
pub use self::restore::RestoreError;

/// A connection, as the driver numbers them; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What a server is configured to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its id.
    pub server: ServerId,
    /// Its domain: only this domain's scheduler is welcome.
    pub domain: DomainId,
    /// Its name.
    pub name: Text<64>,
    /// Whether it takes a new key for a leg (SPEC T-8).
    pub permit_adopt: bool,
    /// Events kept for a scheduler that does not acknowledge them; more are lost into a gap.
    pub event_queue: usize,
    /// Removals that each leg keeps for pulls.
    pub removals: usize,
    /// What `Welcome` says about keep-alives, in milliseconds.
    pub keep_alive_ms: u32,
    /// Whether anybody reads the journal.
    pub journal: bool,
}

/// How a server may break the protocol, for tests of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Misbehaviour {
    /// It does not.
    #[default]
    None,
    /// Random bytes instead of each packet.
    Garbage,
    /// Each packet's CRC is wrong.
    WrongCrc,
    /// Each packet claims another major version.
    WrongVersion,
    /// Each packet claims a body longer than allowed.
    LyingLength,
    /// Each packet is cut in its middle, and the connection closed behind it.
    CutPacket,
    /// Ends of inventories and pulls count one more than was sent.
    LyingCount,
    /// Inventories and pulls never complete.
    EndlessPages,
    /// Takeovers and pulls answer a wrong digest.
    WrongDigest,
    /// A packet of an unknown type before each answer, and a body that cannot be read.
    UnknownTypes,
}

/// What the driver shall do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a packet on a connection.
    Send(ConnectionId, Packet),
    /// Close a connection once everything before is sent.
    Close(ConnectionId),
}

/// Answers held back until the events before them are sent: as many as the window of requests.
const HELD_MAX: usize = 1024;
/// Room for the list of changes in an event: the body without the event's other fields (71 bytes).
const EVENT_ROOM: usize = BODY_BYTES_MAX - 71;

/// The server.
#[derive(Debug)]
pub struct Core {
    /// What it is configured to be.
    pub(crate) settings: Settings,
    boot: BootId,
    restarts: u32,
    table: Table,
    /// The highest token that has attached (rule 2).
    fence: Option<Token>,
    window: Window,
    session: Option<Session>,
    sessions_made: u32,
    connections: BTreeMap<ConnectionId, Connection>,
    events: EventQueue,
    held: VecDeque<(u64, ConnectionId, Packet)>,
    cuts: Cuts,
    pulls: Pulls,
    busy_ms: Option<u32>,
    misbehaviour: Misbehaviour,
    rng: ChaCha8Rng,
    stats: Stats,
    journal: Journal,
    out: Vec<Output>,
}

#[derive(Debug, Default)]
struct Connection {
    welcomed: bool,
    /// The last session that was given to this connection, with its token and the request that asked.
    attached: Option<(u64, Token, u64)>,
}

/// Who asked, and how to pair the answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    connection: ConnectionId,
    from: Address,
    header: Header,
}

/// Inputs.
impl Core {
    /// A server with an empty table. `seed` drives its own life: foreign legs and the script.
    #[must_use]
    pub fn new(settings: Settings, boot: BootId, seed: u64) -> Self {
        let mut journal = Journal::default();
        journal.mute(!settings.journal);
        Self {
            boot,
            restarts: 0,
            table: Table::new(settings.removals),
            fence: None,
            window: Window::default(),
            session: None,
            sessions_made: 0,
            connections: BTreeMap::new(),
            events: EventQueue::new(1, settings.event_queue),
            held: VecDeque::new(),
            cuts: Cuts::default(),
            pulls: Pulls::default(),
            busy_ms: None,
            misbehaviour: Misbehaviour::None,
            rng: ChaCha8Rng::seed_from_u64(seed),
            stats: Stats::default(),
            journal,
            out: Vec::new(),
            settings,
        }
    }

    /// A peer connected.
    pub fn connect(&mut self, id: ConnectionId) {
        self.stats.connections += 1;
        self.connections.insert(id, Connection::default());
    }

    /// A connection is gone. Meetings go on; events wait for the next attach.
    pub fn disconnect(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.cuts.forget(id);
        if self.session.as_ref().is_some_and(|session| session.connection == id) {
            self.session = None;
            self.held.clear();
        }
    }

    /// A packet arrived. `now_ms` counts milliseconds since 1970 UTC.
    pub fn receive(&mut self, now_ms: u64, id: ConnectionId, packet: Packet) {
        self.stats.packets_in += 1;
        let asked = Asked { connection: id, from: packet.source, header: packet.header };
        let Some(connection) = self.connections.get(&id) else { return };
        if packet.header.flags.has(Flags::ANSWER) {
            return; // A server asks nothing, so this answers nobody.
        }
        match packet.message {
            Message::Hello(hello) => self.hello(asked, &hello),
            _ if !connection.welcomed => {
                self.refuse(asked, ErrorCode::NOT_ALLOWED, "Hello comes first on a connection");
            }
            Message::KeepAlive(_) => {
                let message = KeepAliveAnswer { table_revision: self.table.revision };
                self.answer(asked, vec![message.into()]);
            }
            Message::Goodbye(_) => self.out.push(Output::Close(id)),
            Message::Query(query) => self.query(asked, &query),
            Message::Attach(attach) => self.attach(asked, &attach),
            Message::Takeover(takeover) => self.takeover(asked, takeover),
            Message::Adopt(adopt) => self.adopt(asked, &adopt),
            Message::Pull(pull) => self.pull(asked, &pull),
            Message::Command(command) => self.command(now_ms, asked, command),
            Message::EventAck(ack) => self.acknowledge(asked, &ack),
            other => {
                self.stats.unknown += 1;
                if asked.header.request != 0 {
                    let detail = format!("an autonomous server does not answer {}", other.name());
                    self.fail(asked, Failure::new(ErrorCode::UNSUPPORTED, &detail));
                }
            }
        }
    }

    /// A packet arrived whose frame was whole but whose body was not readable.
    pub fn reject(&mut self, id: ConnectionId, rejected: &Rejected) {
        self.stats.packets_in += 1;
        self.stats.malformed += 1;
        let asked = Asked { connection: id, from: rejected.head.source, header: rejected.head.header };
        let Some(connection) = self.connections.get(&id) else { return };
        if !connection.welcomed {
            self.refuse(asked, ErrorCode::MALFORMED, &rejected.reason.to_string());
        } else if !asked.header.flags.has(Flags::ANSWER) {
            self.fail(asked, Failure::new(ErrorCode::MALFORMED, &rejected.to_string()));
        }
    }
}

/// Outputs.
impl Core {
    /// What to write down before any of the outputs is sent, and whether it must reach the disk first.
    pub fn take_journal(&mut self) -> (bytes::Bytes, bool) {
        self.journal.take()
    }

    /// What to do, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }
}

/// Views.
impl Core {
    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The counters, for what only the driver sees.
    pub fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    /// The life of the table.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// Whether a connection has finished its handshake.
    #[must_use]
    pub fn is_welcome(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.welcomed)
    }

    /// How the server breaks the protocol now.
    #[must_use]
    pub fn misbehaviour(&self) -> Misbehaviour {
        self.misbehaviour
    }

    /// Its id.
    #[must_use]
    pub fn server(&self) -> ServerId {
        self.settings.server
    }

    /// The highest token that has attached.
    #[must_use]
    pub fn highest_token(&self) -> Option<Token> {
        self.fence
    }

    /// Events and gaps that are not acknowledged yet.
    #[must_use]
    pub fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// Its legs.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }
}

impl Core {
    fn hello(&mut self, asked: Asked, hello: &Hello) {
        if hello.version_min > VERSION || hello.version_max < VERSION {
            let detail = format!("this server speaks {}.{}", VERSION >> 4, VERSION & 15);
            self.fail(asked, Failure::new(ErrorCode::WRONG_VERSION, &detail));
            return self.refuse(asked, ErrorCode::WRONG_VERSION, &detail);
        }
        if hello.role != Role::Scheduler || hello.id != self.settings.domain.0 {
            let detail = format!("only the scheduler of domain {} is welcome", self.settings.domain);
            self.fail(asked, Failure::new(ErrorCode::UNKNOWN_IDENTITY, &detail));
            return self.refuse(asked, ErrorCode::UNKNOWN_IDENTITY, &detail);
        }
        if let Some(connection) = self.connections.get_mut(&asked.connection) {
            connection.welcomed = true;
        }
        let welcome = Welcome {
            role: Role::Server,
            version: VERSION,
            domain: self.settings.domain,
            id: self.settings.server.0,
            name: self.settings.name.clone(),
            boot: self.boot,
            table_revision: self.table.revision,
            keep_alive_ms: self.settings.keep_alive_ms,
        };
        self.answer(asked, vec![welcome.into()]);
    }

    /// Says farewell and closes.
    fn refuse(&mut self, asked: Asked, code: ErrorCode, detail: &str) {
        self.stats.handshakes_refused += 1;
        let goodbye = Goodbye { code, detail: Text::cut(detail), retry_after_ms: 1000 };
        self.send(asked.connection, asked.from, Header::default(), goodbye.into());
        self.out.push(Output::Close(asked.connection));
    }

    fn fail(&mut self, asked: Asked, failure: Failure) {
        self.answer(asked, vec![failure.into()]);
    }

    /// Answers with one or more packets, the last of them marked.
    fn answer(&mut self, asked: Asked, messages: Vec<Message>) {
        if self.misbehaviour == Misbehaviour::UnknownTypes {
            self.strange(asked);
        }
        let last = messages.len() - 1;
        for (index, message) in messages.into_iter().enumerate() {
            let packet = self.answer_packet(asked, index, index == last, message);
            self.push(asked.connection, packet);
        }
    }

    fn answer_packet(&self, asked: Asked, index: usize, last: bool, message: Message) -> Packet {
        let header = Header {
            flags: if last { Flags::FINAL_ANSWER } else { Flags::ANSWER },
            session: asked.header.session,
            request: asked.header.request,
            // At most 257 packets answer a request.
            index: u32::try_from(index).unwrap_or(u32::MAX),
        };
        Packet { destination: asked.from, source: Address::server(self.settings.server), header, message }
    }

    fn send(&mut self, connection: ConnectionId, to: Address, header: Header, message: Message) {
        let packet = Packet { destination: to, source: Address::server(self.settings.server), header, message };
        self.push(connection, packet);
    }

    fn push(&mut self, connection: ConnectionId, packet: Packet) {
        self.stats.packets_out += 1;
        self.out.push(Output::Send(connection, packet));
    }

    /// Two packets that a receiver must survive: a type that nobody knows, and a body too short for its type.
    fn strange(&mut self, asked: Asked) {
        let body = bytes::Bytes::from_static(b"?");
        for kind in [0x7fff, 0x0141] {
            let message = Message::Unknown { kind, body: body.clone() };
            self.send(asked.connection, asked.from, Header::default(), message);
        }
    }

    /// Turns the pending changes of a leg into events, packed so that each fits a packet, and sends what
    /// may be sent. `ended` marks the last of them.
    fn publish(&mut self, handle: Handle, ended: EndCause) {
        let Some(leg) = self.table.leg_mut(handle) else { return };
        let id = leg.head.id;
        let mark = leg.head.mark;
        let mut changes = leg.take_pending().into_iter().peekable();
        if ended != EndCause::None {
            leg.end(ended);
        }
        loop {
            let mut event = Event {
                number: self.events.next_number(),
                leg: id,
                handle,
                previous: mark.revision,
                mark,
                ended: EndCause::None,
                changes: Vec::new(),
            };
            let mut used = 2;
            while let Some((change, after)) = changes.peek() {
                let size = change.encoded_len() + 2;
                if used + size > EVENT_ROOM && !event.changes.is_empty() {
                    break;
                }
                if event.changes.is_empty() {
                    event.previous = change.revision - 1;
                }
                used += size;
                event.mark = *after;
                event.changes.extend(changes.next().map(|(change, _)| change));
            }
            let last = changes.peek().is_none();
            event.ended = if last { ended } else { EndCause::None };
            if event.changes.is_empty() && event.ended == EndCause::None {
                break;
            }
            if let Some(leg) = self.table.leg_mut(handle) {
                leg.head.last_event = event.number;
            }
            self.journal.note(&Entry::Changed(event.clone()));
            self.stats.events_made += 1;
            self.stats.events_lost += u64::from(!self.events.push(event));
            if last {
                break;
            }
        }
        self.pump();
    }

    /// Sends events to the session while they may be sent, and the answers that waited for them.
    fn pump(&mut self) {
        let Some(session) = self.session else { return };
        let header = Header { session: session.number, ..Header::default() };
        while let Some(message) = self.events.send() {
            self.stats.events_sent += 1;
            self.send(session.connection, session.peer, header, message);
        }
        let sent = self.events.sent_upto();
        while self.held.front().is_some_and(|(number, ..)| *number <= sent) {
            if let Some((_, connection, packet)) = self.held.pop_front() {
                self.push(connection, packet);
            }
        }
    }

    /// Answers once the events up to `number` are sent: a command's events come before its answer (SPEC C-5).
    fn answer_after(&mut self, asked: Asked, number: u64, message: Message) {
        let packet = self.answer_packet(asked, 0, true, message);
        if number <= self.events.sent_upto() {
            self.push(asked.connection, packet);
        } else {
            self.held.push_back((number, asked.connection, packet));
        }
    }
}
