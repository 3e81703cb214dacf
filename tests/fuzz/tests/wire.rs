//! Goal: whatever bytes come, the decoder neither panics nor takes more than its share, and what it reads it writes the
//! same. Method: bytes as they are, and bytes made into packets with a right frame.

use bytes::{BufMut, BytesMut};
use remeet_fuzz::counting::allocated;
use remeet_fuzz::packets::repaired;
use remeet_protocol::message::Message;
use remeet_protocol::{CodecError, Incoming, PacketCodec};
use tokio_util::codec::{Decoder, Encoder};

/// What a packet may make the decoder allocate, all in all.
const ALLOCATED_MAX: usize = 64 * 1024;

fn decode_all(codec: &mut PacketCodec, bytes: &mut BytesMut) -> (Vec<Incoming>, Option<CodecError>) {
    let mut packets = Vec::new();
    loop {
        let (decoded, bytes_allocated) = allocated(|| codec.decode(bytes));
        assert!(bytes_allocated <= ALLOCATED_MAX, "{bytes_allocated} bytes allocated for one packet");
        match decoded {
            Ok(Some(incoming)) => packets.push(incoming),
            Ok(None) => return (packets, None),
            Err(error) => return (packets, Some(error)),
        }
    }
}

/// What was read is written in the same bytes again, but for what the protocol lets a reader skip.
fn reads_back(incoming: &Incoming) {
    let Ok(packet) = incoming else { return };
    let mut out = BytesMut::new();
    PacketCodec::stream().encode(packet, &mut out).expect("what fitted one packet fits one again");
    let again = PacketCodec::stream().decode(&mut out).expect("our own packet").expect("a whole one");
    assert_eq!(again.as_ref().expect("readable"), packet);
    assert!(out.is_empty());
}

#[test]
fn any_bytes_are_read_or_refused() {
    bolero::check!().for_each(|input: &[u8]| {
        for mut codec in [PacketCodec::stream(), PacketCodec::datagram()] {
            let (packets, _) = decode_all(&mut codec, &mut BytesMut::from(input));
            packets.iter().for_each(reads_back);
        }
    });
}

#[test]
fn packets_with_a_right_frame_are_read_or_rejected() {
    bolero::check!().for_each(|input: &[u8]| {
        for mut codec in [PacketCodec::stream(), PacketCodec::datagram()] {
            let mut bytes = BytesMut::from(&repaired(input)[..]);
            let (packets, error) = decode_all(&mut codec, &mut bytes);
            assert!(error.is_none() && packets.len() == 1 && bytes.is_empty(), "{error:?}");
            packets.iter().for_each(reads_back);
        }
    });
}

#[test]
fn bodies_of_every_message_are_read_or_refused() {
    bolero::check!().for_each(|input: &[u8]| {
        let Some((which, body)) = input.split_first() else { return };
        let (kind, name) = Message::ALL[usize::from(*which) % Message::ALL.len()];
        let Ok(message) = Message::take_body(kind, body) else { return };
        assert_eq!((message.kind(), message.name()), (kind, name));
        let mut out = BytesMut::new();
        message.put_body(&mut out);
        assert_eq!(Message::take_body(kind, &out).as_ref(), Ok(&message), "{name} does not read back");
    });
}

#[test]
fn a_stream_is_read_the_same_wherever_it_is_cut() {
    bolero::check!().for_each(|input: &[u8]| {
        let (cuts, rest) = input.split_at(input.len().min(16));
        let mut stream = BytesMut::new();
        for part in rest.chunks(97).take(12) {
            // Now and then bytes that are no packet.
            if part[0] == 0xff {
                stream.put_slice(part);
            } else if part[0] & 0x40 == 0 {
                stream.put_slice(&repaired(part));
            } else {
                // As long as a packet can be.
                stream.put_slice(&repaired(&part.repeat(12)));
            }
        }
        let (whole, end) = decode_all(&mut PacketCodec::stream(), &mut stream.clone());
        let mut codec = PacketCodec::stream();
        let (mut cut, mut bytes, mut cut_end) = (Vec::new(), BytesMut::new(), None);
        let mut cuts = cuts.iter().cycle();
        while !stream.is_empty() && cut_end.is_none() {
            let length = cuts.next().map_or(1, |cut| 1 + usize::from(*cut)).min(stream.len());
            bytes.extend_from_slice(&stream.split_to(length));
            let (packets, error) = decode_all(&mut codec, &mut bytes);
            cut.extend(packets);
            cut_end = error;
        }
        if cut_end.is_none() {
            // The stream ends here: in mid-packet that is a failure of its own.
            match (bytes.len(), codec.decode_eof(&mut bytes)) {
                (0, Ok(None)) => {}
                (left, Err(CodecError::CutStream(cut))) => assert_eq!(cut, left),
                (left, other) => panic!("{left} bytes are left at the end of a stream: {other:?}"),
            }
        }
        assert_eq!(cut, whole);
        assert_eq!(cut_end.map(|error| error.to_string()), end.map(|error| error.to_string()));
    });
}
