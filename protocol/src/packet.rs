//! One unicast packet. Every packet is whole in itself and at most 1078 bytes:
//!
//! ```text
//!  0        8        16  18                      50                50+n    54+n
//!  +--------+--------+---+-----------------------+-----------------+-------+
//!  | dest.  | source |res| data header (32)      | body, n <= 1024 | CRC-32|
//!  +--------+--------+---+-----------------------+-----------------+-------+
//!
//!  data header:
//!  0  version (u8)      1 flags (u8)     2 message type (u16)
//!  4  body length (u16) 6 hops (u8)      7 reserved (u8)
//!  8  session (u64)
//!  16 request (u64)     24 index (u32)   28 reserved (u32)
//! ```
//!
//! The CRC is the Ethernet CRC-32 over everything before it (SPEC P-5), big-endian.

use crate::address::Address;
use crate::message::Message;
use crate::wire::{Input, Malformed};
use bytes::{BufMut, BytesMut};

/// Bytes before the body: addresses, reserved bytes, data header.
pub const HEAD_BYTES: usize = 50;
/// The most bytes of a body.
pub const BODY_BYTES_MAX: usize = 1024;
/// Bytes of the CRC.
pub const CRC_BYTES: usize = 4;
/// The most bytes of a packet.
pub const PACKET_BYTES_MAX: usize = HEAD_BYTES + BODY_BYTES_MAX + CRC_BYTES;
/// Protocol version 2.0: major in the high four bits, minor in the low four (SPEC P-2).
pub const VERSION: u8 = 0x20;
/// The most relays that a packet may pass (SPEC L-3).
pub const HOPS_MAX: u8 = 8;

/// Flags of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag: a request or a notice.
    pub const NONE: Flags = Flags(0);
    /// The packet belongs to the answer of the request whose id it carries.
    pub const ANSWER: Flags = Flags(1);
    /// The last packet of an answer; its index + 1 is the answer's packet count.
    pub const LAST: Flags = Flags(2);

    /// An answer's last (or only) packet.
    pub const FINAL_ANSWER: Flags = Flags(3);

    /// Whether all of `other`'s flags are set.
    #[must_use]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a receiver needs to route and pair a packet, beside its type and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Answer and last marks.
    pub flags: Flags,
    /// Stands for (boot id, epoch, holder) after the attach; 0 before.
    pub session: u64,
    /// Pairs an answer with its request; 0 for notices.
    pub request: u64,
    /// Place of this packet in its answer, from 0.
    pub index: u32,
    /// Relays that it has passed (SPEC L-3).
    pub hops: u8,
}

/// A decoded packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it goes.
    pub destination: Address,
    /// Where it comes from.
    pub source: Address,
    /// Routing and pairing.
    pub header: Header,
    /// The content.
    pub message: Message,
}

/// A message's body does not fit one packet. The caller is at fault: it split its list wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "message type {kind:#06x} has a body of {length} bytes, at most {BODY_BYTES_MAX} fit a packet: send fewer items"
)]
pub struct BodyTooLong {
    /// The message's type.
    pub kind: u16,
    /// Its body's length.
    pub length: usize,
}

/// The fixed part of a packet, read before its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Where it goes.
    pub destination: Address,
    /// Where it comes from.
    pub source: Address,
    /// Version byte, not yet checked.
    pub version: u8,
    /// Message type.
    pub kind: u16,
    /// Body length in bytes, not yet checked.
    pub body_bytes: usize,
    /// Routing and pairing.
    pub header: Header,
}

impl Head {
    /// Reads the first [`HEAD_BYTES`] of a packet. Reserved bytes are ignored (SPEC P-4).
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        use crate::wire::Wire;
        let mut input = Input::new(bytes);
        let destination = Address::take(&mut input)?;
        let source = Address::take(&mut input)?;
        let _reserved = u16::take(&mut input)?;
        let version = u8::take(&mut input)?;
        let flags = Flags(u8::take(&mut input)?);
        let kind = u16::take(&mut input)?;
        let body_bytes = usize::from(u16::take(&mut input)?);
        let hops = u8::take(&mut input)?;
        let _reserved = u8::take(&mut input)?;
        let session = u64::take(&mut input)?;
        let request = u64::take(&mut input)?;
        let index = u32::take(&mut input)?;
        Ok(Self {
            destination,
            source,
            version,
            kind,
            body_bytes,
            header: Header { flags, session, request, index, hops },
        })
    }
}

impl Packet {
    /// Appends the packet's bytes. On an error `out` is as it was.
    pub fn write(&self, out: &mut BytesMut) -> Result<(), BodyTooLong> {
        let start = out.len();
        out.reserve(PACKET_BYTES_MAX);
        out.put_slice(&self.destination.0);
        out.put_slice(&self.source.0);
        out.put_u16(0);
        out.put_u8(VERSION);
        out.put_u8(self.header.flags.0);
        out.put_u16(self.message.kind());
        let length_at = out.len();
        out.put_u16(0);
        out.put_u8(self.header.hops);
        out.put_u8(0);
        out.put_u64(self.header.session);
        out.put_u64(self.header.request);
        out.put_u32(self.header.index);
        out.put_u32(0);
        let body_at = out.len();
        self.message.put_body(out);
        let length = out.len() - body_at;
        let length16 = match u16::try_from(length) {
            Ok(length16) if length <= BODY_BYTES_MAX => length16,
            _ => {
                out.truncate(start);
                return Err(BodyTooLong { kind: self.message.kind(), length });
            }
        };
        out[length_at..length_at + 2].copy_from_slice(&length16.to_be_bytes());
        let crc = crc32fast::hash(&out[start..]);
        out.put_u32(crc);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;

    fn packet(body: usize) -> Packet {
        let message = Message::Unknown { kind: 0x7abc, body: Bytes::from(vec![1; body]) };
        Packet { destination: Address::default(), source: Address::default(), header: Header::default(), message }
    }

    #[test]
    fn a_body_that_is_too_long_leaves_what_was_written_before() {
        let mut out = BytesMut::from(&b"before"[..]);
        assert_eq!(packet(1025).write(&mut out), Err(BodyTooLong { kind: 0x7abc, length: 1025 }));
        assert_eq!(&out[..], b"before");
        packet(1024).write(&mut out).unwrap();
        assert_eq!(out.len(), 6 + PACKET_BYTES_MAX);
    }

    #[test]
    fn a_list_of_more_items_than_a_count_holds_is_refused_not_cut() {
        let claim = crate::message::TakeoverClaim {
            handle: crate::Handle(1),
            leg: crate::LegId { meeting: Default::default(), leg: 0 },
            proof: [0; 32],
        };
        let claims = vec![claim; usize::from(u16::MAX) + 2];
        let packet = Packet { message: crate::message::Takeover { claims }.into(), ..packet(0) };
        assert!(packet.write(&mut BytesMut::new()).is_err());
    }
}
