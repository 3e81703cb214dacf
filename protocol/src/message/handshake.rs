//! Handshake, keep-alive, farewell and failure (SPEC H-1 to H-8).

use crate::error::ErrorCode;
use crate::ids::{BootId, DomainId, Epoch, Holder, Token};
use crate::wire::Text;

wire_enum! {
    /// What the sender is.
    pub enum Role {
        /// A scheduler.
        Scheduler = 1,
        /// An autonomous server.
        Server = 2,
        /// A meeting client.
        Client = 3,
    }
}

wire_struct! {
    /// First packet of a connection. Sent by who dials: the scheduler to a server, a client to the
    /// scheduler. Nothing else is answered before it.
    pub struct Hello {
        /// What the sender is.
        role: Role,
        /// The sender's configured id: the domain's id for a scheduler, the client's id for a client.
        id: u32,
        /// The sender's name, for logs and for the check against the configuration.
        name: Text<64>,
        /// One life of the sender: a scheduler's holder id; a client's instance in the low 64 bits.
        instance: Holder,
        /// Lowest protocol version that the sender speaks (major in the high four bits).
        version_min: u8,
        /// Highest protocol version that the sender speaks.
        version_max: u8,
    }
}

wire_struct! {
    /// Answer to [`Hello`].
    pub struct Welcome {
        /// What the answering side is.
        role: Role,
        /// The version that both use from now on.
        version: u8,
        /// The answering side's domain.
        domain: DomainId,
        /// A server's id; 0 from a scheduler.
        id: u32,
        /// The answering side's name.
        name: Text<64>,
        /// The life of a server's table; a scheduler answers its holder id's bytes here.
        boot: BootId,
        /// A server's table revision; a scheduler's epoch (0 while it has none).
        table_revision: u64,
        /// After this long without a packet the answering side expects a keep-alive: milliseconds.
        keep_alive_ms: u32,
    }
}

wire_struct! {
    /// Is the other side there? Either side may ask.
    pub struct KeepAlive {}
}

wire_struct! {
    /// Answer to [`KeepAlive`].
    pub struct KeepAliveAnswer {
        /// A server's table revision now; a scheduler's epoch.
        table_revision: u64,
    }
}

wire_struct! {
    /// The sender closes the connection after this packet. It ends no meeting.
    pub struct Goodbye {
        /// Why.
        code: ErrorCode,
        /// The same for people.
        detail: Text<256>,
        /// Wait this long, plus a random part, before dialling again: milliseconds.
        retry_after_ms: u32,
    }
}

wire_struct! {
    /// Answer to any request that was not carried out.
    pub struct Failure {
        /// Why.
        code: ErrorCode,
        /// With `busy` and `retry`: wait this long, milliseconds.
        retry_after_ms: u32,
        /// With `stale token`: the token that is attached; zeros otherwise.
        token: Token,
        /// For people.
        detail: Text<256>,
    }
}

impl Failure {
    /// A failure with nothing but its code and a detail.
    #[must_use]
    pub fn new(code: ErrorCode, detail: &str) -> Self {
        Self {
            code,
            retry_after_ms: 0,
            token: Token { epoch: Epoch(0), holder: Holder::default() },
            detail: Text::cut(detail),
        }
    }
}
