//! The unicast packet protocol of a remeet network: what a scheduler, an autonomous server and a
//! meeting client say to one another. No runtime and no sockets; `protocol/SPEC.md` is the text that
//! this crate implements, and its numbered rules are cited beside the code that keeps them.
//!
//! Read in this order:
//!
//! - [`ids`] – the names of things: meeting, leg, server, boot id, token.
//! - [`wire`] – how values become bytes: integers, texts, lists, skip-unknown fields.
//! - [`address`], [`packet`] – the packet's frame: addresses, data header, CRC.
//! - [`codec`] – tokio-util's `Decoder` and `Encoder` over that frame.
//! - [`record`] – the content of a leg (leg row, terminals, windows, entries) and its digest.
//! - [`message`] – every message, a file each family.
//! - [`proof`] – the proof that a takeover carries.
//! - [`error`] – stable error codes.

#[macro_use]
pub mod wire;

pub mod address;
pub mod codec;
pub mod error;
pub mod ids;
pub mod message;
pub mod packet;
pub mod proof;
pub mod record;

pub use address::Address;
pub use codec::{CodecError, Incoming, PacketCodec, Rejected};
pub use error::ErrorCode;
pub use ids::{BootId, DomainId, Epoch, Handle, Holder, LegId, MeetingId, Secret, ServerId, Token};
pub use message::Message;
pub use packet::{Flags, Header, Packet};
pub use record::{Change, Digest, Record, RecordKey};
