//! Why a transaction came to nothing, and what that means for who asked.

use super::StoreError;
use remeet_protocol::Token;

/// The end of a transaction that did not succeed.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The term is over.
    Fenced,
    /// A count was not the expected one: some unit loses. Rolled back.
    Misfit,
    /// The store is down, starting, read-only or silent. Certainly not done.
    Down(String),
    /// The store itself gave a statement up because it took too long. Certainly not done; less at once may do.
    Slow(String),
    /// A deadlock or a serialisation failure: the same again may do.
    Contended(String),
    /// The schema changed below a prepared statement: again, on another connection.
    StalePlan(String),
    /// The store refuses a value: the unit that carries it can never be written.
    Refused(String),
    /// Trying again does not help.
    Broken(String),
    /// The commit was sent, its answer was lost.
    CommitUnknown(String),
}

impl Fault {
    /// What the caller is told.
    pub(super) fn told(self, doing: &'static str, token: Token) -> StoreError {
        match self {
            Fault::Fenced => StoreError::Fenced { token },
            Fault::Misfit => StoreError::Unavailable { doing, reason: "the rows keep changing below it".to_owned() },
            Fault::Down(reason) | Fault::Slow(reason) | Fault::Contended(reason) | Fault::StalePlan(reason) => {
                StoreError::Unavailable { doing, reason }
            }
            Fault::Refused(reason) | Fault::Broken(reason) => StoreError::Broken { doing, reason },
            Fault::CommitUnknown(reason) => StoreError::Unknown { doing, reason },
        }
    }
}
