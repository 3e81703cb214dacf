//! Meeting clients' control messages (SPEC K-1 to K-12): from packets to the scheduler's
//! [`Handle`](crate::scheduler::Handle) and back.
//!
//! - [`listen`], [`Door`] – the port for clients; one task a connection.
//! - `connection` – one client: handshake, identity and rights, requests, subscription.
//! - `promises` – updates of answers that were given during recovery.
//! - `snapshot` – what a subscriber is given first, page by page; `pulse` – whether a client is still there.
//! - `views` – what a client is shown of meetings: state, records, lists, snapshots.
//! - [`client`] – the other side: the meeting-client library.

pub mod client;
mod connection;
mod door;
mod envelope;
mod promises;
mod pulse;
mod snapshot;
mod views;

pub use door::{Door, listen};
