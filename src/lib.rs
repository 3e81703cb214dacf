//! remeet: the conference-recovery daemon of a video-network scheduler.
//!
//! A map of the crate, from the bottom up; nothing below knows what is above it:
//!
//! - [`model`] – meeting, leg, recovery key, intent: the words of the design as types.
//! - [`config`] – typed settings and their defaults.
//! - [`session`] – pure: one server's conversation (handshake, requests, retries, paging, keep-alive).
//! - [`cascade`] – pure: meetings of several legs: their state, and which leg a command is for.
//! - [`recovery`] – pure: plan, per-leg state machine, back-fill merge, queues.
//! - [`link`] – sockets: bytes to packets.
//! - [`store`] – the durable [`store::Store`] and the [`store::Cache`].
//! - [`scheduler`] – the driver that feeds the pure cores and carries out what they answer.
//! - [`cms`] – meeting clients' control messages.
//! - [`ops`] – systemd, the operator's local socket, status.
//! - [`simulator`] – the simulated autonomous server; shares only the protocol crate.
//! - [`demo`] – the mission end to end, checked by an independent reader.
//! - [`drill`] – the scheduler killed and stopped again and again, compared with an oracle after every cycle.
//! - [`mod@bench`] – how fast, with real processes and stores, and how near to what the machine can do.
//! - `stage` – what these three are played on: processes, stores, the independent reader.
//! - [`cli`] – the command line.

pub mod bench;
pub mod cascade;
pub mod cli;
pub mod cms;
pub mod config;
pub mod demo;
pub mod drill;
pub mod guard;
pub mod link;
pub mod model;
pub mod ops;
pub mod recovery;
pub mod scheduler;
pub mod session;
pub mod simulator;
mod stage;
pub mod store;
mod sync;
