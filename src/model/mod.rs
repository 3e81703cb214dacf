//! The words of the design as types: what is stored of a meeting, and who commanded what.
//!
//! The leg is the unit everywhere: schema, protocol, key and plan. A meeting's state is derived from its
//! legs ([`crate::cascade`]).

mod intent;
mod leg;
mod time;

pub use intent::{ClientAnswerRow, CommandId, Intent, IntentResult};
pub use leg::{LegContent, RecoveryKey, StoredLeg, StoredState};
pub use time::Moment;
