//! The simulated autonomous server: faithful to the protocol, without media. Tests, the demo and the
//! benches run many of them. It shares only the protocol crate with the daemon, so that an error in the
//! daemon cannot hide behind the same error here.
//!
//! ```text
//!   scheduler ──TCP──> connection ─┐                       ┌─> state file (snapshot + journal)
//!   scheduler ──TCP──> connection ─┼─> server: lock, step ─┤
//!   test, demo ─unix─> control ────┤        │              └─> outputs ──> connections' queues
//!   --script-rate ───> life ───────┘      core (pure)
//! ```
//!
//! - [`core`] – the server itself: pure, with time and randomness as arguments.
//! - [`options`] – the command line of `remeet simulate`.
//! - [`server`] – the driver: starts, accepts, stops; [`run`] and [`Simulator::spawn`]. `shared` – what its
//!   tasks share; steps of the core, restarts.
//! - `connection` – one task for each socket.
//! - [`control`] – the control socket: truth as JSON, faults, changes; [`client`] – its Rust client.
//! - `relay` – passes packets on to the servers below this one, and back.
//! - [`persistence`] – the state file.

pub mod client;
mod connection;
pub mod control;
pub mod core;
mod faults;
pub mod options;
pub mod persistence;
mod relay;
pub mod server;
mod shared;

pub use self::client::ControlClient;
pub use self::control::{Request, RestartMode};
pub use self::core::Misbehaviour;
pub use self::core::dump::{Dump, LegDump, RecordDump};
pub use self::core::fill::{Fill, Filled};
pub use self::core::script::{Kind, LegChanged, Script};
pub use self::core::stats::Stats;
pub use self::options::Options;
pub use self::relay::Child;
pub use self::server::{Error, Running, Simulator, run};
