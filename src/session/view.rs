//! What can be seen of a session.

use super::Session;
use super::conversation::{Control, Phase};
use super::counters::Counters;
use super::question::Lane;
use remeet_protocol::message::Welcome;
use remeet_protocol::{BootId, Token};

/// Requests of each kind that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lengths {
    /// Attaches and inventories queued.
    pub urgent: usize,
    /// Takeover packets queued.
    pub takeovers: usize,
    /// Commands and adoptions queued.
    pub commands: usize,
    /// Pulls queued.
    pub pulls: usize,
    /// Requests that wait for the store.
    pub held: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests that wait out a `busy`.
    pub parked: usize,
    /// Events that wait for a lower number.
    pub events_waiting: usize,
}

/// Getters.
impl Session {
    /// Whether the handshake is done.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    /// The server's Welcome of this connection.
    #[must_use]
    pub fn welcome(&self) -> Option<&Welcome> {
        match &self.phase {
            Phase::Up(link) => Some(&link.welcome),
            _ => None,
        }
    }

    /// The life of the server's table, as this connection's Welcome named it.
    #[must_use]
    pub fn boot(&self) -> Option<BootId> {
        self.welcome().map(|welcome| welcome.boot)
    }

    /// The attached session's number and token.
    #[must_use]
    pub fn attached(&self) -> Option<(u64, Token)> {
        match self.control {
            Control::Attached { session, token } => Some((session, token)),
            Control::None | Control::Fenced(_) => None,
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How much is open.
    #[must_use]
    pub fn lengths(&self) -> Lengths {
        Lengths {
            urgent: self.queue.len(Lane::Urgent),
            takeovers: self.queue.len(Lane::Takeover),
            commands: self.queue.len(Lane::Command),
            pulls: self.queue.len(Lane::Pull),
            held: self.queue.held(),
            in_flight: self.flight.active(),
            parked: self.flight.parked(),
            events_waiting: self.events.waiting(),
        }
    }

    /// The last event number handed up, and the last one acknowledged to the server.
    #[must_use]
    pub fn event_numbers(&self) -> (Option<u64>, u64) {
        (self.events.heard(), self.events.acknowledged())
    }
}
