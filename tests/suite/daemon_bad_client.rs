//! Goal: whatever a client sends, the daemon says so, counts it in `remeet status --json`, logs it, and serves
//! the others. Method: raw connections to the clients' port of `remeet run`, beside a good client.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, PATIENCE, Rig, add_terminal, ok};
use bytes::BytesMut;
use futures_util::StreamExt;
use remeet_protocol::message::{ClientCommand, ClientOp, Hello, KeepAlive, Role};
use remeet_protocol::packet::{CRC_BYTES, Header, VERSION};
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, DomainId, ErrorCode, Holder, MeetingId, Message, Packet, PacketCodec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

/// Offsets in a packet: version, type and body length (SPEC P-1).
const VERSION_AT: usize = 18;
pub(crate) const LENGTH_AT: usize = 22;

pub(crate) fn packet(request: u64, message: impl Into<Message>) -> Packet {
    Packet {
        destination: Address::scheduler(DomainId(1)),
        source: Address::client(CONTROL),
        header: Header { request, ..Header::default() },
        message: message.into(),
    }
}

pub(crate) fn hello(id: u32, name: &str, version: u8) -> Packet {
    let hello = Hello {
        role: Role::Client,
        id,
        name: Text::cut(name),
        instance: Holder::default(),
        version_min: version,
        version_max: version,
    };
    packet(1, hello)
}

pub(crate) fn known() -> Packet {
    hello(CONTROL, &format!("client {CONTROL}"), VERSION)
}

pub(crate) fn bytes(packets: &[Packet]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    packets.iter().for_each(|packet| packet.write(&mut bytes).unwrap());
    bytes.to_vec()
}

/// Its CRC fits again.
pub(crate) fn sealed(mut packet: Vec<u8>) -> Vec<u8> {
    let end = packet.len() - CRC_BYTES;
    let crc = crc32fast::hash(&packet[..end]);
    packet[end..].copy_from_slice(&crc.to_be_bytes());
    packet
}

/// A daemon with a meeting, and a client that is served before and after.
struct Served {
    rig: Rig,
    client: remeet::cms::client::Client,
    meeting: MeetingId,
    added: u32,
}

impl Served {
    async fn new() -> Self {
        let mut rig = Rig::new(1, &Backing::embedded()).await;
        rig.start();
        rig.whole().await;
        let client = rig.client(CONTROL).await;
        let meeting = rig.meeting(&client, 1, 1).await;
        Self { rig, client, meeting, added: 640 }
    }

    async fn count(&self, name: &str) -> u64 {
        self.rig.status().await.unwrap().counters.get(name).copied().unwrap_or(0)
    }

    /// A connection that sends this, after its handshake if `greeted`, and then hangs up.
    async fn send(&self, greeted: bool, sent: &[u8]) {
        let mut stream = TcpStream::connect(self.rig.clients_at).await.unwrap();
        if greeted {
            stream.write_all(&bytes(&[known()])).await.unwrap();
            let mut answer = [0; 1];
            tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("welcomed").unwrap();
        }
        // The other side may have closed already: that is its right.
        let _ = stream.write_all(sent).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection ends");
    }

    /// What a connection hears that sends this and waits until it is closed.
    async fn hear(&self, sent: &[u8]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.rig.clients_at).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let framed = Framed::new(stream, PacketCodec::stream());
        let all = framed.map(|packet| packet.unwrap().unwrap().message).collect();
        tokio::time::timeout(PATIENCE, all).await.expect("the connection is closed")
    }

    /// It is counted under `name` and logged as `logged`, and the good client is served.
    async fn noted(&mut self, name: &str, more_than: u64, logged: &str) {
        let counted = |status: &remeet::ops::status::Status| status.counters.get(name).is_some_and(|n| *n > more_than);
        self.rig.until(&format!("{name} above {more_than}"), counted).await;
        self.rig.until_logged(logged).await;
        self.added += 1;
        ok(self.client.command(self.meeting, add_terminal(&self.added.to_string())).await.unwrap());
        self.rig.same_as_server(&self.client, self.meeting).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_cannot_be_trusted_are_counted_and_logged_before_and_after_the_handshake() {
    let mut served = Served::new().await;
    let whole = bytes(&[packet(2, KeepAlive {})]);
    let mut wrong_crc = whole.clone();
    *wrong_crc.last_mut().unwrap() ^= 1;
    let mut wrong_version = whole.clone();
    wrong_version[VERSION_AT] = 0x70;
    let mut lying = whole.clone();
    lying[LENGTH_AT..LENGTH_AT + 2].copy_from_slice(&u16::MAX.to_be_bytes());
    for (sent, logged) in [
        (wrong_crc, "wrong CRC: the packet says"),
        (sealed(wrong_version), "packet version 7.0, this side speaks 2.x"),
        (sealed(lying), "a body of 65535 bytes is claimed"),
        (vec![0xA5; 4_096], "a client sent bytes that are no packet"),
        (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".repeat(4), "a client sent bytes that are no packet"),
    ] {
        for greeted in [false, true] {
            let before = served.count("client_streams_broken").await;
            served.send(greeted, &sent).await;
            served.noted("client_streams_broken", before, logged).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_cut_anywhere_is_counted_and_logged_and_has_no_effect() {
    let mut served = Served::new().await;
    let number = 5;
    let command = |meeting| ClientCommand { instance: 5, number, meeting, op: ClientOp::End };
    let sent = bytes(&[packet(2, command(served.meeting))]);
    for greeted in [false, true] {
        for length in 1..sent.len() {
            served.send(greeted, &sent[..length]).await;
        }
        // Cut between two packets it is just a client that leaves.
        served.send(greeted, &[]).await;
    }
    served.noted("client_streams_cut", 2 * (sent.len() as u64 - 1) - 1, "a client's connection was cut").await;
    assert_eq!(served.count("client_streams_cut").await, 2 * (sent.len() as u64 - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_types_and_unreadable_bodies_are_answered_counted_and_logged() {
    let mut served = Served::new().await;
    let stream = TcpStream::connect(served.rig.clients_at).await.unwrap();
    let mut framed = Framed::new(stream, PacketCodec::stream());
    let mut unreadable =
        bytes(&[packet(3, ClientCommand { instance: 6, number: 1, meeting: served.meeting, op: ClientOp::End })]);
    // The body is a byte shorter than its fields say; the frame is whole.
    let body = u16::from_be_bytes([unreadable[LENGTH_AT], unreadable[LENGTH_AT + 1]]) - 1;
    unreadable[LENGTH_AT..LENGTH_AT + 2].copy_from_slice(&body.to_be_bytes());
    unreadable.pop();
    let unknown = Message::Unknown { kind: 0x0777, body: vec![1, 2, 3].into() };
    let sent = [bytes(&[known(), packet(2, unknown)]), sealed(unreadable), bytes(&[packet(4, KeepAlive {})])].concat();
    framed.get_mut().write_all(&sent).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 4 {
        let next = tokio::time::timeout(PATIENCE, framed.next()).await.expect("answered");
        heard.push(next.expect("the connection lasts").unwrap().unwrap());
    }
    let code = |request: u64| {
        heard.iter().find(|packet| packet.header.request == request).and_then(|packet| match &packet.message {
            Message::Failure(failure) => Some(failure.code),
            _ => None,
        })
    };
    assert_eq!((code(2), code(3)), (Some(ErrorCode::UNSUPPORTED), Some(ErrorCode::MALFORMED)), "{heard:?}");
    assert!(heard.iter().any(|packet| matches!(packet.message, Message::KeepAliveAnswer(_))), "it goes on: {heard:?}");
    served.noted("client_requests_unsupported", 0, "a client's request is not for a scheduler").await;
    served.noted("client_packets_malformed", 0, "a client's packet cannot be read").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_a_wrong_name_and_another_version_are_refused_counted_and_logged() {
    let mut served = Served::new().await;
    for (sent, code, logged) in [
        (
            hello(99, "nobody", VERSION),
            ErrorCode::UNKNOWN_IDENTITY,
            "no client 99 named \"nobody\" is in the configuration",
        ),
        (hello(CONTROL, "somebody else", VERSION), ErrorCode::UNKNOWN_IDENTITY, "named \"somebody else\" is in"),
        (hello(CONTROL, "client 2", 0x30), ErrorCode::WRONG_VERSION, "this side speaks version 2.0"),
        (packet(1, KeepAlive {}), ErrorCode::UNKNOWN_IDENTITY, "say Hello first"),
    ] {
        let before = served.count("clients_refused").await;
        let heard = served.hear(&bytes(&[sent])).await;
        assert!(matches!(&heard[..], [Message::Failure(failure)] if failure.code == code), "{heard:?}");
        served.noted("clients_refused", before, logged).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_clients_beyond_the_bound_and_silent_ones_are_counted_and_logged() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.environment("REMEET_CLIENTS__CONNECTIONS_MAX", "3");
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 1).await;
    // Two that say nothing hold the other places; the third is told to come back.
    let silent = [TcpStream::connect(rig.clients_at).await.unwrap(), TcpStream::connect(rig.clients_at).await.unwrap()];
    rig.until("three are open", |status| status.counters["clients_accepted"] == 3).await;
    let mut framed = Framed::new(TcpStream::connect(rig.clients_at).await.unwrap(), PacketCodec::stream());
    let told = tokio::time::timeout(PATIENCE, framed.next()).await.expect("told").unwrap().unwrap().unwrap();
    assert!(matches!(&told.message, Message::Goodbye(goodbye) if goodbye.code == ErrorCode::BUSY), "{told:?}");
    rig.until("counted", |status| status.counters["clients_too_many"] == 1).await;
    rig.until_logged("there are 3 client connections").await;
    rig.until("let go", |status| status.counters["clients_silent"] == 2).await;
    rig.until_logged("a client sent no packet in time").await;
    drop(silent);
    ok(client.command(meeting, add_terminal("640")).await.unwrap());
    let other = rig.client(CONTROL).await;
    rig.same_as_server(&other, meeting).await;
}
