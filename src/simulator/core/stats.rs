//! What a server counts. Read by tests and by the demo's verdict.

use serde::{Deserialize, Serialize};

/// Counters since the process began; a simulated restart keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Packets received.
    pub packets_in: u64,
    /// Packets handed to connections.
    pub packets_out: u64,
    /// Bodies that could not be read.
    pub malformed: u64,
    /// Message types that a server does not know.
    pub unknown: u64,
    /// Frames that could not be trusted (CRC, version, length): each closed its connection.
    pub bad_frames: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused: too many, or the link is cut.
    pub connections_refused: u64,
    /// Connections closed because the peer read too slowly.
    pub slow_readers: u64,
    /// Handshakes refused: wrong version, unknown identity, anything before `Hello`, too late.
    pub handshakes_refused: u64,
    /// Pages of inventory asked for.
    pub queries: u64,
    /// Attaches accepted.
    pub attaches: u64,
    /// Attaches refused because a newer token had attached.
    pub attaches_refused: u64,
    /// Legs taken over.
    pub takeovers_accepted: u64,
    /// Claims refused, whatever the reason.
    pub takeovers_refused: u64,
    /// Of these: proofs that did not fit.
    pub bad_keys: u64,
    /// Commands that were executed, whatever came of them.
    pub commands_executed: u64,
    /// Commands that were refused before execution.
    pub commands_refused: u64,
    /// Requests refused because a newer token had attached.
    pub stale_refused: u64,
    /// Commands, takeovers and adoptions executed for a token lower than the highest attached, or on a leg
    /// on which a newer token had acted. Counted where they are executed; must stay 0 (rules 2 and 3).
    pub stale_executed: u64,
    /// Packets passed on, either way, for servers below this one.
    #[serde(default)]
    pub relayed: u64,
    /// Packets for or from servers below that were not passed on.
    #[serde(default)]
    pub relays_refused: u64,
    /// Orphans adopted.
    pub adoptions: u64,
    /// Requests whose id had come before.
    pub repeats: u64,
    /// Commands whose intent, or start, had been carried out before and that were answered again.
    pub duplicates_answered: u64,
    /// Requests refused because their id was below the window.
    pub below_window: u64,
    /// Pages of records asked for.
    pub pulls: u64,
    /// Changes sent in answer.
    pub pulled_changes: u64,
    /// Pulls that had to send everything.
    pub full_pulls: u64,
    /// Events made.
    pub events_made: u64,
    /// Events and gaps sent, repeats included.
    pub events_sent: u64,
    /// Events lost to overflow.
    pub events_lost: u64,
    /// Requests answered `busy`.
    #[serde(default)]
    pub busy_answers: u64,
    /// Answers that broke the protocol, as the server was told to.
    #[serde(default)]
    pub breaches: u64,
    /// Restarts since the process began.
    pub restarts: u64,
}
