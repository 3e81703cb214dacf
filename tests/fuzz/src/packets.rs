//! Bytes made into packets whose frame is right, so that what is in them is read.

use remeet_protocol::message::Message;
use remeet_protocol::packet::{BODY_BYTES_MAX, CRC_BYTES, HEAD_BYTES, VERSION};

/// Where the head says its version, message type and body length (SPEC 3).
const VERSION_AT: usize = 18;
const KIND_AT: usize = 20;
const LENGTH_AT: usize = 22;

/// A packet of `bytes`: the head's version and length and the checksum are made to fit; and its type is one that this
/// version knows, unless `bytes` say that it is to be any.
#[must_use]
pub fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; HEAD_BYTES];
    let head = bytes.len().min(HEAD_BYTES);
    packet[..head].copy_from_slice(&bytes[..head]);
    let body = &bytes[head..bytes.len().min(HEAD_BYTES + BODY_BYTES_MAX)];
    packet.extend_from_slice(body);
    let any = packet[0] & 7 == 7;
    let named = u16::from_be_bytes([packet[KIND_AT], packet[KIND_AT + 1]]);
    if !any {
        let (kind, _) = Message::ALL[usize::from(named) % Message::ALL.len()];
        packet[KIND_AT..KIND_AT + 2].copy_from_slice(&kind.to_be_bytes());
    }
    packet[VERSION_AT] = VERSION;
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    packet[LENGTH_AT..LENGTH_AT + 2].copy_from_slice(&length.to_be_bytes());
    let crc = crc32fast::hash(&packet);
    packet.extend_from_slice(&crc.to_be_bytes());
    debug_assert_eq!(packet.len(), HEAD_BYTES + body.len() + CRC_BYTES);
    packet
}
