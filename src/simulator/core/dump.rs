//! A server's truth, for an independent reader to compare with what the scheduler has stored.

use super::Core;
use super::leg::Leg;
use remeet_protocol::message::{EndCause, LegState};
use remeet_protocol::record::{Mark, Record};
use remeet_protocol::{BootId, DomainId, Handle, LegId, ServerId, Token};
use serde::{Deserialize, Serialize};

/// Everything that a server knows, secrets excepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// The server.
    pub server: ServerId,
    /// Its domain.
    pub domain: DomainId,
    /// Its name.
    pub name: String,
    /// The life of its table.
    pub boot: BootId,
    /// The table's revision.
    pub table_revision: u64,
    /// The highest token that has attached.
    pub highest_token: Option<Token>,
    /// Events not acknowledged yet.
    pub events_waiting: usize,
    /// Legs and tombstones, in order of handle.
    pub legs: Vec<LegDump>,
}

/// A leg or tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegDump {
    /// The server's name of it.
    pub handle: Handle,
    /// Our name of it.
    pub leg: LegId,
    /// Live (1) or ended (2).
    pub state: LegState,
    /// Why it ended; 0 while it lives.
    pub cause: EndCause,
    /// Who started it or took it over last; zeros for nobody of ours.
    pub token: Token,
    /// The recovery key's generation.
    pub generation: u64,
    /// The last intent number executed.
    pub intent: u64,
    /// Revision, count and digest.
    pub mark: Mark,
    /// Terminals on the roster.
    pub terminals: u16,
    /// The records, in order of their keys; none for a tombstone.
    pub records: Vec<RecordDump>,
}

/// A record and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordDump {
    /// The leg's revision that wrote it.
    pub revision: u64,
    /// The record.
    pub record: Record,
}

impl Core {
    /// The server's truth now.
    #[must_use]
    pub fn dump(&self) -> Dump {
        Dump {
            server: self.settings.server,
            domain: self.settings.domain,
            name: self.settings.name.to_string(),
            boot: self.boot,
            table_revision: self.table.revision,
            highest_token: self.fence,
            events_waiting: self.events.len(),
            legs: self.table.legs().map(leg_dump).collect(),
        }
    }
}

fn leg_dump(leg: &Leg) -> LegDump {
    let record = |held: &super::leg::Held| RecordDump { revision: held.revision, record: held.record.clone() };
    LegDump {
        handle: leg.head.handle,
        leg: leg.head.id,
        state: if leg.is_live() { LegState::Live } else { LegState::Ended },
        cause: leg.head.ended,
        token: leg.head.token,
        generation: leg.head.generation,
        intent: leg.head.intent,
        mark: leg.head.mark,
        terminals: leg.terminals,
        records: leg.records().map(record).collect(),
    }
}
