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
//! - `answers` – handshake and answers; `attach`, `takeover`, `command` – who may command, and commands;
//!   [`window`] – request ids.
//! - `inventory`, `pull` – reading; `publish`, [`events`] – telling.
//! - `roster`, [`script`] – what commands, and life itself, do to terminals.
//! - [`journal`], `restore` – what survives a restart. [`dump`], [`stats`] – what tests look at.

mod act;
mod answers;
mod attach;
mod command;
pub mod dump;
pub mod events;
pub mod fill;
mod inventory;
pub mod journal;
pub mod leg;
mod publish;
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

use self::attach::Sessions;
use self::events::EventQueue;
use self::inventory::Cuts;
use self::journal::Journal;
use self::pull::Pulls;
use self::stats::Stats;
use self::table::Table;
use self::takeover::Guesses;
use self::window::Window;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{Failure, KeepAlive, KeepAliveAnswer, Message};
use remeet_protocol::packet::{Flags, Header, Packet};
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, BootId, DomainId, ErrorCode, Rejected, ServerId, Token};
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
    /// Its domain.
    pub domain: DomainId,
    /// The domain whose scheduler is welcome, and no other: one scheduler may command servers of several domains.
    pub scheduler_domain: DomainId,
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
    /// Each packet claims to come from the server with the next id.
    ForeignSource,
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
// Nearly all are packets: a box each would be an allocation each.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a packet on a connection.
    Send(ConnectionId, Packet),
    /// Close a connection once everything before is sent.
    Close(ConnectionId),
}

/// Answers held back until the events before them are sent: as many as the window of requests.
const HELD_MAX: usize = 1024;

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
    /// The request being carried out was seen before (SPEC T-8).
    repeated: bool,
    sessions: Sessions,
    seed: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    events: EventQueue,
    held: VecDeque<(u64, ConnectionId, Packet)>,
    cuts: Cuts,
    pulls: Pulls,
    guesses: Guesses,
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
    /// Who is at the other end, as its `Hello` said.
    peer: Address,
    /// The last request id of this side: for keep-alives.
    asked: u64,
}

/// Who asked, and how to pair the answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    connection: ConnectionId,
    from: Address,
    to: Address,
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
            repeated: false,
            sessions: Sessions::default(),
            seed,
            connections: BTreeMap::new(),
            events: EventQueue::new(1, settings.event_queue),
            held: VecDeque::new(),
            cuts: Cuts::default(),
            pulls: Pulls::default(),
            guesses: Guesses::default(),
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
        self.held.retain(|(_, connection, _)| *connection != id);
        if self.sessions.events_to.is_some_and(|(connection, _)| connection == id) {
            self.sessions.events_to = None;
            self.release();
        }
    }

    /// A packet arrived. `now_ms` counts milliseconds since 1970 UTC.
    pub fn receive(&mut self, now_ms: u64, id: ConnectionId, packet: Packet) {
        self.stats.packets_in += 1;
        let (from, to) = (packet.source, packet.destination);
        let asked = Asked { connection: id, from, to, header: packet.header };
        let Some(connection) = self.connections.get(&id) else { return };
        if packet.header.flags.has(Flags::ANSWER) {
            return; // The answer to a keep-alive: that it came is all that matters.
        }
        match packet.message {
            Message::Hello(hello) => self.hello(asked, &hello),
            _ if !connection.welcomed => {
                self.refuse(asked, ErrorCode::UNKNOWN_IDENTITY, "Hello comes first on a connection");
            }
            Message::KeepAlive(_) => {
                let message = KeepAliveAnswer { table_revision: self.table.revision };
                self.answer(asked, vec![message.into()]);
            }
            Message::Goodbye(_) => self.out.push(Output::Close(id)),
            Message::EventAck(ack) => self.acknowledge(asked, &ack),
            // Whatever else needs an answer needs a request id for it (SPEC M-3).
            _ if asked.header.request == 0 => self.stats.unknown += 1,
            Message::Query(query) => self.query(now_ms, asked, &query),
            Message::Attach(attach) => self.attach(asked, &attach),
            Message::Takeover(takeover) => self.takeover(now_ms, asked, &takeover),
            Message::Adopt(adopt) => self.adopt(asked, &adopt),
            Message::Pull(pull) => self.pull(asked, &pull),
            Message::Command(command) => self.command(now_ms, asked, &command),
            other => {
                self.stats.unknown += 1;
                let detail = format!("an autonomous server does not answer {}", other.name());
                self.fail(asked, Failure::new(ErrorCode::UNSUPPORTED, &detail));
            }
        }
    }

    /// Nothing was sent to a peer for a while: asks whether it is there (SPEC H-6).
    pub fn keep_alive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.welcomed) else { return };
        connection.asked += 1;
        let (peer, request) = (connection.peer, connection.asked);
        self.send(id, peer, Header { request, ..Header::default() }, KeepAlive {}.into());
    }

    /// A packet arrived whose frame was whole but whose body was not readable.
    pub fn reject(&mut self, id: ConnectionId, rejected: &Rejected) {
        self.stats.packets_in += 1;
        self.stats.malformed += 1;
        let (from, to) = (rejected.head.source, rejected.head.destination);
        let asked = Asked { connection: id, from, to, header: rejected.head.header };
        let Some(connection) = self.connections.get(&id) else { return };
        if !connection.welcomed {
            self.refuse(asked, rejected.code(), &rejected.reason.to_string());
        } else if !asked.header.flags.has(Flags::ANSWER) && asked.header.request != 0 {
            self.fail(asked, Failure::new(rejected.code(), &rejected.to_string()));
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
