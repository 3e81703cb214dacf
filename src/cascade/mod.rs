//! Pure: meetings of several legs, over several autonomous servers.
//!
//! States are the leg's; what a client sees of a meeting is derived from them ([`meeting_state`]). A command goes to
//! the leg that it is about and needs only that leg ([`owner_of`]); only `start` and `end` are about all of them.
//!
//! Servers may be cascaded: a parent relays for those below it ([`Tree`]), and each of these is a server of its own, with
//! its own conversation, which begins when the parent answers ([`Relay`]).
//!
//! These are decisions of [`crate::recovery`], which stores an intent before it is sent: so they are pure, and stand
//! below it.

mod relay;
mod route;
mod state;
mod tree;

pub use relay::Relay;
pub use route::{Candidate, owner_of, terminal_of};
pub use state::{LegStands, meeting_state};
pub use tree::{Misplaced, Tree};
