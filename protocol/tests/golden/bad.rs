//! Packets that must be refused, or of which a part must be skipped.

use crate::world::{From::*, *};
use bytes::{Bytes, BytesMut};
use remeet_protocol::message::*;
use remeet_protocol::packet::HEAD_BYTES;
use remeet_protocol::record::RecordKey;
use remeet_protocol::wire::Malformed;
use remeet_protocol::{ErrorCode, Packet};

/// What must come of a packet.
pub(crate) enum Outcome {
    /// The frame cannot be trusted; the codec says this.
    Frame(&'static str),
    /// The stream ends within it; as a datagram the codec says this.
    Cut(&'static str),
    /// The frame is whole, the body is not readable; the answer has this code.
    Rejected(Malformed, ErrorCode),
    /// It is accepted as this.
    Accepted(Box<Packet>),
}

/// Name of the file without its ending, what is wrong, the bytes, what must come of them.
pub(crate) struct Bad {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) outcome: Outcome,
}

pub(crate) fn all() -> Vec<Bad> {
    let mut packets = frames();
    packets.extend(bodies());
    packets.extend(skipped());
    packets
}

fn frames() -> Vec<Bad> {
    let bad = |name, about, change: fn(&mut Vec<u8>), outcome| {
        let mut bytes = bytes_of(&hello());
        change(&mut bytes);
        Bad { name, about, bytes, outcome }
    };
    vec![
        bad(
            "01-wrong-crc",
            "The last bit of the CRC is turned: closes a stream, drops a datagram (P-8).",
            |bytes| *bytes.last_mut().unwrap() ^= 1,
            Outcome::Frame("wrong CRC: the packet says 0xb1f3a228, its bytes give 0xb1f3a229"),
        ),
        bad(
            "02-wrong-version",
            "Major version 3, with a right CRC (P-2).",
            |bytes| {
                bytes[18] = 0x30;
                mend(bytes);
            },
            Outcome::Frame("packet version 3.0, this side speaks 2.x"),
        ),
        bad(
            "03-lying-body-length-above-the-most",
            "The header claims 1025 bytes: refused before anything is awaited (P-6).",
            |bytes| {
                bytes[22..24].copy_from_slice(&1025u16.to_be_bytes());
                mend(bytes);
            },
            Outcome::Frame("a body of 1025 bytes is claimed, at most 1024 are allowed"),
        ),
        bad(
            "04-lying-body-length-below-the-truth",
            "The header claims one byte less than there is: what stands at the CRC's place is none (P-5, P-7).",
            |bytes| {
                bytes[23] -= 1;
                mend(bytes);
            },
            Outcome::Frame("wrong CRC: the packet says 0x20d99ab0, its bytes give 0x4380d0ef"),
        ),
        bad(
            "05-cut-packet",
            "The first 60 bytes of a packet: a stream waits and then ends within it (P-8).",
            |bytes| bytes.truncate(60),
            Outcome::Cut("the datagram has 60 bytes, its packet 90"),
        ),
        bad(
            "06-cut-head",
            "The first 20 bytes of a packet.",
            |bytes| bytes.truncate(20),
            Outcome::Cut("the datagram has 20 bytes, its packet 54"),
        ),
    ]
}

fn bodies() -> Vec<Bad> {
    let rejected = |name, about, kind, body: &[u8], reason: Malformed, code| Bad {
        name,
        about,
        bytes: bytes_of(&packet(
            SchedulerAsks(30),
            true,
            Message::Unknown { kind, body: Bytes::copy_from_slice(body) },
        )),
        outcome: Outcome::Rejected(reason, code),
    };
    let malformed =
        |name, about, kind, body: &[u8], reason| rejected(name, about, kind, body, reason, ErrorCode::MALFORMED);
    let mut name_of_70 = vec![1, 0, 0, 0, 7, 0, 70];
    name_of_70.extend([b'x'; 70]);
    name_of_70.extend(body_of(&hello())[18..].iter());
    let mut set_extra = body_of(&packet(
        SchedulerAsks(30),
        true,
        Command {
            leg: leg(),
            handle: HANDLE,
            intent: 1,
            op: Op::SetExtra(SetExtra { number: text("4201"), key: text("seat"), value: None }),
        },
    ));
    *set_extra.last_mut().unwrap() = 2;
    let mut unknown_op = set_extra.clone();
    unknown_op[34] = 99;
    let mut change =
        body_of(&packet(SchedulerAsks(30), true, PullPage { leg: leg(), changes: vec![removed(1, RecordKey::Leg)] }));
    change[30] = 0x45;
    vec![
        malformed(
            "10-body-too-short",
            "`Attach` without its last byte: the fields need more than the body has (M-2).",
            0x0111,
            &[0; 23],
            Malformed::Short { field: "Holder", needed: 16, left: 15 },
        ),
        malformed(
            "11-lying-list-count",
            "A takeover of 65535 claims in a body of two: refused before anything is reserved (W-3).",
            0x0113,
            &[0xff, 0xff],
            Malformed::Short { field: "list", needed: 131_070, left: 0 },
        ),
        malformed(
            "12-lying-item-length",
            "A takeover of one claim, said to be 500 bytes long; the body has 4 more.",
            0x0113,
            &[0, 1, 1, 0xf4, 1, 2, 3, 4],
            Malformed::Short { field: "item", needed: 500, left: 4 },
        ),
        malformed(
            "13-text-not-utf-8",
            "`Hello` whose name is the byte 0xff (W-2).",
            0x0001,
            &[1, 0, 0, 0, 7, 0, 1, 0xff],
            Malformed::NotUtf8,
        ),
        malformed(
            "14-text-too-long",
            "`Hello` whose name has 70 bytes; 64 are allowed (W-2).",
            0x0001,
            &name_of_70,
            Malformed::TooLong { length: 70, max: 64 },
        ),
        malformed(
            "15-text-with-nul",
            "`Hello` whose name holds U+0000 (W-2).",
            0x0001,
            &[1, 0, 0, 0, 7, 0, 3, b'a', 0, b'b'],
            Malformed::Nul,
        ),
        malformed(
            "16-option-flag-two",
            "`Subscribe` with the option's flag 2 (W-6).",
            0x020A,
            &[2],
            Malformed::Value { field: "bool", value: 2 },
        ),
        malformed(
            "17-last-flag-two",
            "A command that sets extra information, its option's flag 2 (W-6).",
            0x0131,
            &set_extra,
            Malformed::Value { field: "bool", value: 2 },
        ),
        malformed(
            "18-unknown-record-kind",
            "A pull page with a record of kind 0x45.",
            0x0122,
            &change,
            Malformed::Value { field: "record kind", value: 0x45 },
        ),
        rejected(
            "19-unknown-operation",
            "A command with operation 99: `unsupported` (M-2).",
            0x0131,
            &unknown_op,
            Malformed::Value { field: "operation", value: 99 },
            ErrorCode::UNSUPPORTED,
        ),
    ]
}

fn skipped() -> Vec<Bad> {
    let accepted =
        |name, about, bytes, packet| Bad { name, about, bytes, outcome: Outcome::Accepted(Box::new(packet)) };
    let unknown =
        packet(SchedulerAsks(31), true, Message::Unknown { kind: 0x7abc, body: Bytes::from_static(b"later") });
    let trailing = {
        let mut body = body_of(&hello());
        body.extend(b"fields of a later version");
        packet(SchedulerAsks(1), false, Message::Unknown { kind: 0x0001, body: body.into() })
    };
    let claims = Takeover { claims: vec![TakeoverClaim { handle: HANDLE, leg: leg(), proof: takeover_proof() }] };
    let long_item = {
        let mut body = body_of(&packet(SchedulerAsks(6), true, claims.clone()));
        body[3] += 2;
        body.extend([0xab, 0xcd]);
        packet(SchedulerAsks(6), true, Message::Unknown { kind: 0x0113, body: body.into() })
    };
    let mut reserved = bytes_of(&hello());
    for place in [16, 17, 25, 46, 47, 48, 49] {
        reserved[place] = 0xa5;
    }
    mend(&mut reserved);
    let mut minor = bytes_of(&hello());
    minor[18] = 0x2f;
    mend(&mut minor);
    vec![
        accepted(
            "20-unknown-type",
            "Type 0x7abc: skipped; as a request it is answered `unsupported` (M-1).",
            bytes_of(&unknown),
            unknown,
        ),
        accepted(
            "21-unknown-trailing-field",
            "`Hello` with 25 bytes of a later version at its end: skipped (W-4).",
            bytes_of(&trailing),
            hello(),
        ),
        accepted(
            "22-unknown-trailing-field-of-an-item",
            "A takeover whose claim is two bytes longer than this version's: skipped (W-4).",
            bytes_of(&long_item),
            packet(SchedulerAsks(6), true, claims),
        ),
        accepted("23-reserved-bytes-set", "All reserved bytes are 0xa5: ignored (P-4).", reserved, hello()),
        accepted("24-later-minor-version", "Version 2.15: accepted (P-2).", minor, hello()),
    ]
}

fn hello() -> Packet {
    crate::servers::handshake().swap_remove(0).1
}

pub(crate) fn bytes_of(packet: &Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    packet.write(&mut out).unwrap();
    out.to_vec()
}

fn body_of(packet: &Packet) -> Vec<u8> {
    let bytes = bytes_of(packet);
    bytes[HEAD_BYTES..bytes.len() - 4].to_vec()
}

/// Makes the CRC right again.
fn mend(bytes: &mut [u8]) {
    let end = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_be_bytes());
}
