//! Sockets: bytes to packets.
//!
//! ```text
//!   session --Vec<Packet>--> Outbox --> [task: Framed<TcpStream, PacketCodec>] --> server
//!   session <--LinkEvent---- channel <-- [ one task owns each socket          ] <-- server
//! ```
//!
//! - [`spawn`] – dials one server, again and again ([`dial`]).
//! - [`listen()`] – takes meeting clients' connections ([`mod@listen`]).
//! - [`Outbox`] – the bounded queue of what is to be sent.
//!
//! TCP is plaintext, so it is refused beyond loopback, until the security work brings TLS.

mod backoff;
pub mod dial;
mod framing;
pub mod listen;
mod outbox;

pub use dial::{LinkEvent, LinkHandle, LinkOptions, spawn};
pub use listen::{ClientLinkEvent, ConnectionId, ListenCounters, ListenOptions, Listener, listen};
pub use outbox::{Outbox, SendError};

use std::net::SocketAddr;

/// Why a link cannot be had at all. Whatever the network does later is a [`LinkEvent`].
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Plaintext would leave this machine.
    #[error(
        "{0} is not a loopback address: links are plaintext until TLS is supported, so only 127.0.0.0/8 and [::1] are \
         allowed; use a loopback address, or a tunnel that ends on one"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another process using the port?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Refuses addresses beyond this machine.
pub fn check_loopback(address: SocketAddr) -> Result<(), LinkError> {
    if address.ip().to_canonical().is_loopback() { Ok(()) } else { Err(LinkError::NotLoopback(address)) }
}
