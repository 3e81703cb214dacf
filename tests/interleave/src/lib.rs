//! What runs shared structures of the driver in orders that a machine shows once in years (shuttle).
//!
//! The sources under test are the daemon's own: `tests/interleave.rs` takes them in by their path. They take their
//! primitives from `crate::sync`, which there is [`sync`] of this crate: every operation is a step, and between two
//! steps any other task may take its own. Memory orders weaker than sequential consistency are not looked at: no
//! structure here tells by one atomic that another place in memory is ready.

pub mod run;
pub mod sync;
