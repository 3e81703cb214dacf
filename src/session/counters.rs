//! What a session counts. Whatever a peer does wrong shows here, by kind.

use std::collections::BTreeMap;

/// Kinds of breaches of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Misbehaviour {
    /// The stream of bytes could not be trusted: CRC, version, length.
    Stream,
    /// A packet's body could not be read.
    Malformed,
    /// It claims to be somebody else (rule 16).
    Identity,
    /// An answer that breaks a rule of its message.
    Answer,
    /// Events out of order, or missing.
    Events,
    /// A request that only a scheduler may make.
    Request,
    /// Another life of its table within one connection.
    Boot,
}

impl Misbehaviour {
    /// Its name, for logs and counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Misbehaviour::Stream => "stream",
            Misbehaviour::Malformed => "malformed",
            Misbehaviour::Identity => "identity",
            Misbehaviour::Answer => "answer",
            Misbehaviour::Events => "events",
            Misbehaviour::Request => "request",
            Misbehaviour::Boot => "boot",
        }
    }
}

/// Counters over the session's whole life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets heard, rejected ones included.
    pub packets_in: u64,
    /// Packets handed out.
    pub packets_out: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Requests given up without an answer.
    pub unanswered: u64,
    /// Answers that no request waits for: repeats and late ones.
    pub stray_answers: u64,
    /// Packets of an older session, or before the handshake.
    pub foreign_packets: u64,
    /// Packets of a type of a later version, skipped.
    pub unknown_types: u64,
    /// Events heard again.
    pub repeated_events: u64,
    /// Times that the link came up to a Welcome.
    pub connections: u64,
    /// Breaches of the protocol by kind.
    pub misbehaviours: BTreeMap<Misbehaviour, u64>,
}
