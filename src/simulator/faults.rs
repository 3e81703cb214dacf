//! What the driver does wrong when it is told to: waits, holds its tongue, refuses, sends broken bytes.

use super::core::Misbehaviour;
use bytes::{BufMut, BytesMut};
use remeet_protocol::packet::{BodyTooLong, CRC_BYTES, Packet};
use std::time::Duration;

/// The faults that are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Faults {
    /// Every packet leaves this much later.
    pub(super) latency: Duration,
    /// Connections are accepted, but nothing is read and nothing answered.
    pub(super) hang: bool,
    /// Connections are refused.
    pub(super) link_cut: bool,
    /// What is below this server is not reached.
    pub(super) relay_cut: bool,
    /// The server is restarting.
    pub(super) down: bool,
    /// How bytes are broken.
    pub(super) misbehaviour: Misbehaviour,
}

/// Offsets in a packet: version byte and body length (SPEC P-1).
const VERSION_AT: usize = 18;
const LENGTH_AT: usize = 22;
/// Offset of the last byte of the source's id (SPEC A-2).
const SOURCE_ID_AT: usize = 13;

/// Appends a packet, broken as told. Answers false if the connection must be closed behind it.
pub(super) fn write(packet: &Packet, misbehaviour: Misbehaviour, out: &mut BytesMut) -> Result<bool, BodyTooLong> {
    let start = out.len();
    packet.write(out)?;
    let bytes = &mut out[start..];
    match misbehaviour {
        Misbehaviour::Garbage => {
            for (place, byte) in bytes.iter_mut().enumerate() {
                *byte = byte.wrapping_mul(31) ^ place.to_le_bytes()[0] ^ 0xa5;
            }
        }
        Misbehaviour::WrongCrc => {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
        }
        Misbehaviour::ForeignSource => {
            // The lowest byte of the server's id.
            bytes[SOURCE_ID_AT] = bytes[SOURCE_ID_AT].wrapping_add(1);
            let end = out.len() - CRC_BYTES;
            let crc = crc32fast::hash(&out[start..end]);
            out.truncate(end);
            out.put_u32(crc);
        }
        Misbehaviour::WrongVersion => bytes[VERSION_AT] = 0x70,
        Misbehaviour::LyingLength => {
            bytes[LENGTH_AT..LENGTH_AT + 2].copy_from_slice(&u16::MAX.to_be_bytes());
            let end = out.len() - CRC_BYTES;
            let crc = crc32fast::hash(&out[start..end]);
            out.truncate(end);
            out.put_u32(crc);
        }
        Misbehaviour::CutPacket => {
            let half = bytes.len() / 2;
            out.truncate(start + half);
            return Ok(false);
        }
        Misbehaviour::None
        | Misbehaviour::LyingCount
        | Misbehaviour::EndlessPages
        | Misbehaviour::WrongDigest
        | Misbehaviour::UnknownTypes => {}
    }
    Ok(true)
}
