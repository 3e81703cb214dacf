//! Alarms: what an operator must know. An error in the log and an entry in `remeet status`.

use remeet_protocol::{LegId, ServerId};
use serde::Serialize;

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmKind {
    /// Two servers claim one leg, or a leg closed by absence is live.
    Conflict,
    /// A live leg without a recovery key.
    Orphan,
    /// A leg is gone although nobody ended it.
    Vanished,
    /// A recovery key from the database was refused.
    BadKey,
    /// A leg's back-fill is quarantined.
    Quarantine,
    /// A newer token has attached to a server.
    StaleToken,
    /// The lease was not renewed in time.
    LeaseLapsed,
    /// A server broke the protocol.
    Misbehaviour,
    /// A stored row cannot be read.
    BadRow,
    /// The cache disagreed with the database.
    CacheDisagrees,
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// The server, if one.
    pub server: Option<ServerId>,
    /// The leg, if one.
    pub leg: Option<LegId>,
    /// What happened and what to do.
    pub text: String,
}
