//! Goal: the codec does under tokio-util's `Framed` and `UdpFramed` what SPEC P-7 and P-8 ask: a bad datagram is
//! dropped and the next one arrives; a wrong CRC ends a stream.
//!
//! Method: real loopback sockets; every wait has a deadline.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use futures_util::{SinkExt, Stream, StreamExt};
use remeet_protocol::message::{EventAck, KeepAlive};
use remeet_protocol::{CodecError, Header, Message, Packet, PacketCodec};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::codec::Framed;
use tokio_util::udp::UdpFramed;

#[tokio::test]
async fn packets_go_both_ways_over_a_stream() {
    let (near, far) = streams().await;
    let (mut near, mut far) = (Framed::new(near, PacketCodec::stream()), Framed::new(far, PacketCodec::stream()));
    for request in 1..=200 {
        near.feed(packet(request)).await.unwrap();
    }
    SinkExt::<Packet>::flush(&mut near).await.unwrap();
    for request in 1..=200 {
        let incoming = next(&mut far).await.unwrap().unwrap().unwrap();
        assert_eq!(incoming, packet(request));
        far.send(&incoming).await.unwrap();
        assert_eq!(next(&mut near).await.unwrap().unwrap().unwrap(), incoming);
    }
    drop(near);
    assert!(next(&mut far).await.is_none(), "the end between two packets is no error");
}

#[tokio::test]
async fn a_wrong_crc_ends_a_stream_though_good_packets_follow() {
    let (mut near, far) = streams().await;
    let mut far = Framed::new(far, PacketCodec::stream());
    let mut bytes = bytes_of(&packet(1));
    bytes.extend(damaged(&packet(2)));
    bytes.extend(bytes_of(&packet(3)));
    near.write_all(&bytes).await.unwrap();
    assert_eq!(next(&mut far).await.unwrap().unwrap().unwrap(), packet(1));
    assert!(matches!(next(&mut far).await.unwrap(), Err(CodecError::Crc { .. })));
    assert!(next(&mut far).await.is_none(), "the stream has ended for its reader");
}

#[tokio::test]
async fn a_stream_cut_within_a_packet_is_an_error() {
    let (mut near, far) = streams().await;
    let mut far = Framed::new(far, PacketCodec::stream());
    near.write_all(&bytes_of(&packet(1))[..53]).await.unwrap();
    drop(near);
    assert!(matches!(next(&mut far).await.unwrap(), Err(CodecError::CutStream(53))));
    assert!(next(&mut far).await.is_none());
}

#[tokio::test]
async fn an_unreadable_body_does_not_end_a_stream() {
    let (mut near, far) = streams().await;
    let mut far = Framed::new(far, PacketCodec::stream());
    // Type 0x0111 (attach) with a body of one byte.
    let short = Packet { message: Message::Unknown { kind: 0x0111, body: vec![1].into() }, ..packet(1) };
    let mut bytes = bytes_of(&short);
    bytes.extend(bytes_of(&packet(2)));
    near.write_all(&bytes).await.unwrap();
    let rejected = next(&mut far).await.unwrap().unwrap().unwrap_err();
    assert_eq!((rejected.head.kind, rejected.head.header.request), (0x0111, 1));
    assert_eq!(next(&mut far).await.unwrap().unwrap().unwrap(), packet(2));
}

#[tokio::test]
async fn a_bad_datagram_is_dropped_and_the_next_good_one_arrives() {
    let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (near_at, far_at) = (near.local_addr().unwrap(), far.local_addr().unwrap());
    let mut far = UdpFramed::new(far, PacketCodec::datagram());
    let mut two = bytes_of(&packet(8));
    two.extend(bytes_of(&packet(9)));
    let mut version = bytes_of(&packet(10));
    version[18] = 0x30;
    let bad: [Vec<u8>; 7] = [
        damaged(&packet(7)),
        two,
        bytes_of(&packet(11))[..52].to_vec(),
        vec![0x20; 3],
        vec![0xff; 2000],
        version,
        [bytes_of(&packet(12)), vec![0]].concat(),
    ];
    for (round, bad) in (100u64..).zip(bad) {
        // A datagram socket of the loopback keeps order; nothing of the bad one may reach the good one.
        near.send_to(&bad, far_at).await.unwrap();
        near.send_to(&bytes_of(&packet(round)), far_at).await.unwrap();
        next(&mut far).await.unwrap().unwrap_err();
        let (incoming, from) = next(&mut far).await.unwrap().unwrap();
        assert_eq!((incoming.unwrap(), from), (packet(round), near_at));
    }
    near.send_to(&[], far_at).await.unwrap();
    far.send((packet(1), near_at)).await.unwrap();
    let mut buffer = [0; 2048];
    let length = timely(near.recv(&mut buffer)).await.unwrap();
    assert_eq!(buffer[..length], bytes_of(&packet(1))[..], "one packet fills one datagram");
}

fn packet(request: u64) -> Packet {
    let message = if request.is_multiple_of(2) { EventAck { number: request }.into() } else { KeepAlive {}.into() };
    let header = Header { session: 1, request, ..Header::default() };
    Packet { destination: Default::default(), source: Default::default(), header, message }
}

fn bytes_of(packet: &Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes).unwrap();
    bytes.to_vec()
}

fn damaged(packet: &Packet) -> Vec<u8> {
    let mut bytes = bytes_of(packet);
    bytes[40] ^= 4;
    bytes
}

async fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    timely(stream.next()).await
}

async fn timely<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("nothing came within 10 s")
}
