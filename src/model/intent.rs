//! Intents and client answers: what was asked, under which number, and what came of it.

use remeet_protocol::message::{ClientCommand, Op};
use remeet_protocol::{ErrorCode, LegId, MeetingId};

/// A client command's id: a repeat gets the first answer (design §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId {
    /// One life of the client's memory of its commands.
    pub instance: u64,
    /// Rises within the instance.
    pub number: u64,
}

impl From<&ClientCommand> for CommandId {
    fn from(command: &ClientCommand) -> Self {
        Self { instance: command.instance, number: command.number }
    }
}

/// A command to a server, committed before it is sent. Open until its result is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The leg.
    pub leg: LegId,
    /// Rises within the leg, also over terms, from 1.
    pub number: u64,
    /// What to do.
    pub op: Op,
    /// The client command that asked for it; none for what the scheduler does by itself.
    pub command: Option<CommandId>,
}

/// What came of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentResult {
    /// The leg.
    pub leg: LegId,
    /// The intent's number.
    pub number: u64,
    /// `ok` or why not.
    pub code: ErrorCode,
}

/// A kept answer to a client command. 256 an instance are kept, at most 24 h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAnswerRow {
    /// The command.
    pub command: CommandId,
    /// The meeting that the answer names.
    pub meeting: MeetingId,
    /// `ok` or why not.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
    /// When it was given: milliseconds since 1970 UTC.
    pub at_ms: u64,
}
