//! Goal: whatever is written is read back the same; whatever a peer sends is a value or an error, never a
//! panic, and never costs more memory than a packet.
//!
//! Method: generated packets of every message; a failing case is printed with its seed, which
//! `PROPTEST_RNG_SEED=n` takes back; `PROPTEST_CASES=n` runs more cases.

#![allow(clippy::unwrap_used)]

mod any;
mod bounds;

use any::Any;
use bytes::{Buf, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use remeet_protocol::message::*;
use remeet_protocol::packet::{CRC_BYTES, HEAD_BYTES, PACKET_BYTES_MAX};
use remeet_protocol::record::{Change, Record, RecordState};
use remeet_protocol::wire::{Input, Wire, pack};
use remeet_protocol::{Incoming, Message, Packet, PacketCodec};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use tokio_util::codec::{Decoder, Encoder};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_packet_is_read_back_as_it_was_written(packet in any::packet()) {
        for mut codec in [PacketCodec::stream(), PacketCodec::datagram()] {
            let mut bytes = BytesMut::new();
            codec.encode(&packet, &mut bytes).unwrap();
            prop_assert!(bytes.len() <= PACKET_BYTES_MAX);
            let again = codec.decode(&mut bytes).unwrap().unwrap();
            prop_assert_eq!(again.as_ref(), Ok(&packet));
            prop_assert!(bytes.is_empty());
        }
    }

    /// W-7: what is read is written to the same bytes, if it held no fields of a later version.
    #[test]
    fn a_value_has_one_encoding(packet in any::packet(), at in any::<Index>(), byte in any::<u8>()) {
        let mut bytes = body_of(&packet.message);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(message) = Message::take_body(packet.message.kind(), &bytes) {
            let again = body_of(&message);
            prop_assert_eq!(&Message::take_body(message.kind(), &again).unwrap(), &message);
            // A changed length may have left bytes that were skipped: the rest is never longer.
            prop_assert!(again.len() <= bytes.len());
            if again.len() == bytes.len() {
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn unknown_fields_at_the_end_are_skipped(packet in any::packet(), tail in vec(any::<u8>(), 1..40)) {
        if matches!(packet.message, Message::Unknown { .. }) {
            return Ok(());
        }
        let mut body = body_of(&packet.message);
        body.extend(tail);
        prop_assert_eq!(Message::take_body(packet.message.kind(), &body), Ok(packet.message));
    }

    #[test]
    fn a_body_cut_anywhere_is_refused_without_a_panic(packet in any::packet(), at in any::<Index>()) {
        let body = body_of(&packet.message);
        if matches!(packet.message, Message::Unknown { .. }) || body.is_empty() {
            return Ok(());
        }
        let cut = &body[..at.index(body.len())];
        prop_assert!(Message::take_body(packet.message.kind(), cut).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..3000), kind in any::<Index>()) {
        for codec in [PacketCodec::stream(), PacketCodec::datagram()] {
            drop(decoded(codec, &[&bytes[..]]));
        }
        let (kind, _) = Message::ALL[kind.index(Message::ALL.len())];
        drop(Message::take_body(kind, &bytes));
    }

    #[test]
    fn mutated_packets_with_a_right_crc_never_panic(
        packet in any::packet(),
        changes in vec((any::<Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = bytes_of(&packet);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // The body's length is mended too, or almost nothing would get past the frame.
        let (end, body) = (bytes.len() - CRC_BYTES, bytes.len() - CRC_BYTES - HEAD_BYTES);
        bytes[18] = 0x20;
        bytes[22..24].copy_from_slice(&u16::try_from(body).unwrap().to_be_bytes());
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_be_bytes());
        let incoming = PacketCodec::datagram().decode(&mut BytesMut::from(&bytes[..])).unwrap().unwrap();
        if let Err(rejected) = incoming {
            prop_assert_eq!(rejected.head.kind, u16::from_be_bytes([bytes[20], bytes[21]]));
            prop_assert!(!rejected.code().is_ok());
        }
    }

    /// One wrong bit anywhere is an error of the frame (P-8); it never becomes another packet.
    #[test]
    fn a_turned_bit_never_passes(packet in any::packet(), at in any::<Index>(), bit in 0..8u8) {
        let mut bytes = bytes_of(&packet);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        PacketCodec::datagram().decode(&mut BytesMut::from(&bytes[..])).unwrap_err();
        let outcome = decoded(PacketCodec::stream(), &[&bytes[..]]);
        prop_assert!(outcome.packets.is_empty() && outcome.error.is_some());
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_packets(
        packets in vec(any::packet(), 1..5),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let whole: Vec<u8> = packets.iter().flat_map(bytes_of).collect();
        let mut places: BTreeSet<usize> = cuts.iter().map(|cut| cut.index(whole.len())).collect();
        places.extend([0, whole.len()]);
        let places: Vec<usize> = places.into_iter().collect();
        let pieces: Vec<&[u8]> = places.windows(2).map(|ends| &whole[ends[0]..ends[1]]).collect();
        let bytewise: Vec<&[u8]> = whole.chunks(1).collect();
        for pieces in [pieces, bytewise] {
            let outcome = decoded(PacketCodec::stream(), &pieces);
            prop_assert_eq!(outcome.error, None);
            prop_assert_eq!(outcome.packets.iter().map(|incoming| incoming.as_ref().unwrap()).collect::<Vec<_>>(),
                packets.iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_packet_says_so(packet in any::packet(), at in any::<Index>()) {
        let bytes = bytes_of(&packet);
        let cut = at.index(bytes.len() - 1) + 1;
        let outcome = decoded(PacketCodec::stream(), &[&bytes[..cut]]);
        prop_assert!(outcome.packets.is_empty());
        prop_assert_eq!(outcome.error, Some(format!("the stream ended {cut} bytes into a packet")));
        PacketCodec::datagram().decode(&mut BytesMut::from(&bytes[..cut])).unwrap_err();
    }

    /// P-6: what a peer claims reserves nothing beyond one packet.
    #[test]
    fn a_decoder_reserves_at_most_one_packet(packet in any::packet(), cut in any::<Index>(), claimed in any::<u16>()) {
        let mut bytes = bytes_of(&packet);
        bytes[22..24].copy_from_slice(&claimed.to_be_bytes());
        let mut input = BytesMut::with_capacity(bytes.len());
        input.extend_from_slice(&bytes[..cut.index(bytes.len())]);
        let before = input.capacity();
        drop(PacketCodec::stream().decode(&mut input));
        prop_assert!(input.capacity() <= before + PACKET_BYTES_MAX, "{} of {before}", input.capacity());
    }

    #[test]
    fn lengths_are_counted_as_they_are_written(
        message in proptest::strategy::Union::new(any::messages()),
        change in Change::any(),
        record in Record::any(),
    ) {
        if let Message::Command(command) = &message {
            prop_assert_eq!(command.encoded_len(), body_of(&message).len());
        }
        prop_assert_eq!(encoded_len(&message), body_of(&message).len());
        let mut out = BytesMut::new();
        change.put(&mut out);
        prop_assert_eq!(change.encoded_len(), out.len());
        out.clear();
        record.put_canonical(&mut out);
        let as_change = Change { revision: 0, state: RecordState::Present(record) };
        prop_assert_eq!(as_change.encoded_len(), 8 + 1 + 2 + out.len() - 1);
    }

    /// Runs are whole, in order, fit their room, and none could have taken the next one's first item.
    #[test]
    fn packed_runs_fit_their_message(changes in vec(Change::any(), 0..60)) {
        let runs = pack(changes.clone(), Event::CHANGES_ROOM);
        prop_assert_eq!(runs.concat(), changes);
        for (run, next) in runs.iter().zip(runs.iter().skip(1)) {
            prop_assert!(run.encoded_len() + 2 + next[0].encoded_len() > Event::CHANGES_ROOM);
        }
        for run in runs {
            prop_assert!(!run.is_empty());
            prop_assert!(run.encoded_len() <= Event::CHANGES_ROOM);
        }
    }
}

#[test]
fn every_message_is_generated() {
    let mut runner = TestRunner::new(config());
    let kinds: BTreeSet<u16> =
        any::messages().iter().map(|strategy| strategy.new_tree(&mut runner).unwrap().current().kind()).collect();
    for (kind, name) in Message::ALL {
        assert!(kinds.contains(kind), "{name} is never generated");
    }
}

/// The seed is printed (the harness shows it when a test fails) and taken back by `PROPTEST_RNG_SEED`.
fn config() -> Config {
    static SEED: LazyLock<u64> = LazyLock::new(|| match std::env::var("PROPTEST_RNG_SEED") {
        Ok(seed) => seed.parse().expect("PROPTEST_RNG_SEED is not a number below 2^64"),
        Err(_) => RandomState::new().build_hasher().finish(),
    });
    println!("PROPTEST_RNG_SEED={}", *SEED);
    Config { failure_persistence: None, rng_seed: RngSeed::Fixed(*SEED), ..Config::default() }
}

fn encoded_len(message: &Message) -> usize {
    macro_rules! of {
        ($($name:ident),*) => {
            match message {
                $(Message::$name(message) => message.encoded_len(),)*
                Message::Unknown { body, .. } => body.len(),
            }
        };
    }
    of!(
        Hello,
        Welcome,
        KeepAlive,
        KeepAliveAnswer,
        Goodbye,
        Failure,
        Query,
        InventoryPage,
        InventoryEnd,
        Attach,
        Attached,
        Takeover,
        TakeoverAnswer,
        Adopt,
        AdoptAnswer,
        Pull,
        PullPage,
        PullEnd,
        Command,
        CommandAnswer,
        Event,
        EventGap,
        EventAck,
        ClientCommand,
        ClientAnswer,
        Get,
        MeetingInfo,
        MeetingRecords,
        MeetingEnd,
        List,
        ListPage,
        ListEnd,
        Subscribe,
        Subscribed,
        ClientEvent,
        Reset
    )
}

fn body_of(message: &Message) -> Vec<u8> {
    let mut body = BytesMut::new();
    message.put_body(&mut body);
    body.to_vec()
}

fn bytes_of(packet: &Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes).unwrap();
    bytes.to_vec()
}

struct Decoded {
    packets: Vec<Incoming>,
    error: Option<String>,
}

/// Feeds the pieces one after another, then the end.
fn decoded(mut codec: PacketCodec, pieces: &[&[u8]]) -> Decoded {
    let mut outcome = Decoded { packets: Vec::new(), error: None };
    let mut input = BytesMut::new();
    for (place, piece) in pieces.iter().enumerate() {
        input.extend_from_slice(piece);
        let last = place + 1 == pieces.len();
        loop {
            let left = input.remaining();
            match if last { codec.decode_eof(&mut input) } else { codec.decode(&mut input) } {
                Ok(Some(incoming)) => outcome.packets.push(incoming),
                Ok(None) => break,
                Err(error) => {
                    outcome.error = Some(error.to_string());
                    return outcome;
                }
            }
            assert!(input.remaining() < left, "a packet came out and nothing was read");
        }
    }
    outcome
}

/// The reader of one field never reads beyond its input, whatever is asked of it.
#[test]
fn an_input_gives_no_more_than_it_has() {
    let mut input = Input::new(&[1, 2, 3]);
    assert!(input.bytes(usize::MAX, "all").is_err());
    assert_eq!(input.left(), 3);
    assert_eq!(input.bytes(3, "all").unwrap(), [1, 2, 3]);
    assert!(u8::take(&mut input).is_err());
}
