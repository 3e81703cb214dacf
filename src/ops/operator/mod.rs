//! The operator's local socket: newline-delimited JSON, one request a line.
//!
//! ```text
//!   → {"command":"status"}
//!   ← {"item":{…}}          none, one or many
//!   ← {"done":1}            how many items came; or {"error":{"kind":"…","text":"…"}}
//! ```
//!
//! An answer without its last line was cut off. The socket belongs to the daemon's user, mode 0600, and
//! only that user and root are served: who can open it has the operator's right.

mod ask;
mod serve;

pub use ask::{AskError, ask, ask_each};
pub use serve::{BindError, OperatorSocket};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use remeet_protocol::{LegId, MeetingId, ServerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an operator may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OperatorRequest {
    /// How it is: one [`Status`](super::status::Status).
    Status,
    /// A reconcile round now, of one server or of all. Answered when it has begun, with the servers
    /// `compared` and those `unreachable`.
    Recover {
        /// One server only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<ServerId>,
    },
    /// Everything in the cache, a leg an item; recovery keys without their secrets.
    DumpCache,
    /// Forgets recovery keys in the cache: a drill, so that they come from the database.
    ForgetKeys {
        /// The legs.
        legs: Vec<LegId>,
    },
    /// Meetings that are not well: pending, orphan, conflict, quarantined; a leg an item.
    Troubled,
    /// Pulls a quarantined leg whole and counts it again. Answered once its quarantine is lifted and that is
    /// stored, or with the reason why it stays.
    LiftQuarantine {
        /// The leg.
        leg: LegId,
    },
    /// Hands over to a standby. Answered once the lease is released.
    StepDown,
    /// Marks a meeting to be recovered first, or takes the mark away.
    Mark {
        /// The meeting.
        meeting: MeetingId,
        /// Recover it first.
        first: bool,
    },
}

/// What an operator is answered.
pub enum OperatorAnswer {
    /// Done, nothing to tell.
    Done,
    /// One item.
    One(Value),
    /// Many items, as they come.
    Many(BoxStream<'static, Value>),
}

/// Why an operator's request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{text}")]
pub struct OperatorError {
    /// What kind of thing is wrong.
    pub kind: OperatorErrorKind,
    /// What is wrong and what to do.
    pub text: String,
}

/// Kinds of [`OperatorError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorErrorKind {
    /// The request cannot be read.
    Malformed,
    /// The request is longer than 64 KiB.
    TooLong,
    /// Too many connections at a time.
    Busy,
    /// What it names is not there.
    NotFound,
    /// Not in this phase or state.
    WrongState,
    /// A store or server did not answer.
    Unavailable,
    /// It took too long.
    Deadline,
}

impl OperatorError {
    /// An error of `kind`.
    #[must_use]
    pub fn new(kind: OperatorErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// Who answers operators: the scheduler.
pub trait Operator: Send + Sync + 'static {
    /// Carries out a request. Given [`HANDLE_DEADLINE`] for its answer to begin.
    fn handle(&self, request: OperatorRequest) -> BoxFuture<'_, Result<OperatorAnswer, OperatorError>>;
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AnswerLine {
    Item(Value),
    Done(u64),
    Error(OperatorError),
}

/// The most bytes of a request.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// The most connections at a time: an operator has a few terminals open, not many.
pub const CONNECTIONS_MAX: usize = 16;
/// An answer begins, and each further item comes, within this time.
pub const HANDLE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
/// A peer sends its request, and takes each line of its answer, within this time.
pub const PEER_DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);
/// The most items of an answer: every leg of the largest network foreseen, ten times over.
pub const ITEMS_MAX: u64 = 1_000_000;
/// The most bytes of an answer's line: a leg with thousands of terminals.
const ANSWER_LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
