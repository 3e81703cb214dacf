//! Goal: the clients' port keeps H-1, H-6 and H-8 of `protocol/SPEC.md`: who says no Hello, or falls silent, is cut;
//! who answers stays. Method: raw connections to `remeet run`, beside a client of our own library.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_bad_client::{LENGTH_AT, bytes, hello, known, packet, sealed};
use crate::daemon_rig::{Backing, CONTROL, OPERATOR, PATIENCE, Rig, add_terminal, ok};
use futures_util::{SinkExt, StreamExt};
use remeet_protocol::message::{KeepAlive, KeepAliveAnswer, Welcome};
use remeet_protocol::packet::{Header, VERSION};
use remeet_protocol::{ErrorCode, Flags, Message, Packet, PacketCodec};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::codec::Framed;

/// A connection to the clients' port, byte by byte ours.
pub(crate) struct Raw(pub(crate) Framed<TcpStream, PacketCodec>);

impl Raw {
    pub(crate) async fn dial(rig: &Rig) -> Self {
        // A small buffer: what is not read soon waits at the daemon, not in the system's megabytes.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        Self(Framed::new(socket.connect(rig.clients_at).await.unwrap(), PacketCodec::stream()))
    }

    /// After its handshake.
    pub(crate) async fn welcomed(rig: &Rig) -> (Self, Welcome) {
        let mut raw = Self::dial(rig).await;
        raw.send(known()).await;
        let Some(Packet { message: Message::Welcome(welcome), .. }) = raw.next().await else { panic!("welcome") };
        (raw, welcome)
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        self.0.send(packet).await.unwrap();
    }

    /// The next packet; none at the connection's end.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a packet, or the end") {
            Some(Ok(incoming)) => Some(incoming.unwrap()),
            // A reset is as good an end as a close.
            Some(Err(_)) | None => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_a_silent_client_is_asked_and_cut_after_three_periods_and_who_answers_stays() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    let period = Duration::from_millis(500);
    rig.environment("REMEET_LINK__KEEP_ALIVE_MS", "500");
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 1).await;

    // It answers what it is asked, and says nothing else until it is told to.
    let (mut answering, welcome) = Raw::welcomed(&rig).await;
    assert_eq!(welcome.keep_alive_ms, 500);
    let (done, mut is_done) = tokio::sync::oneshot::channel::<()>();
    let answers = tokio::spawn(async move {
        let mut asked = 0;
        loop {
            tokio::select! {
                next = answering.next() => {
                    let next = next.expect("it stays");
                    assert!(matches!(next.message, Message::KeepAlive(_)), "{next:?}");
                    asked += 1;
                    let header = Header { flags: Flags::FINAL_ANSWER, ..next.header };
                    answering.send(Packet { header, ..packet(0, KeepAliveAnswer { table_revision: 0 }) }).await;
                }
                _ = &mut is_done => return (answering, asked),
            }
        }
    });

    let begun = Instant::now();
    let (mut silent, _) = Raw::welcomed(&rig).await;
    let mut heard = Vec::new();
    while let Some(next) = silent.next().await {
        heard.push(next);
    }
    assert!(begun.elapsed() >= period * 3, "{:?}", begun.elapsed());
    assert!(!heard.is_empty(), "it was asked before it was cut");
    for asked in &heard {
        assert!(matches!(asked.message, Message::KeepAlive(_)), "{asked:?}");
        assert!(asked.header.request != 0 && asked.header.flags == Flags::NONE, "a request: {asked:?}");
    }
    rig.until("counted", |status| status.counters["clients_silent"] == 1).await;
    rig.until_logged("a client was silent for 1.5s").await;

    done.send(()).unwrap();
    let (mut answering, asked) = answers.await.unwrap();
    assert!(asked >= 2, "asked {asked} times");
    answering.send(packet(9, KeepAlive {})).await;
    while !matches!(answering.next().await.expect("it stays").message, Message::KeepAliveAnswer(_)) {}
    // Our own client has said nothing since, but answered.
    assert_eq!(client.link().borrow().connects, 1);
    ok(client.command(meeting, add_terminal("640")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_who_says_no_hello_is_cut_after_five_seconds_whatever_it_sends() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    // The body is a byte shorter than its fields say; the frame is whole.
    let mut unreadable = bytes(&[known()]);
    let body = u16::from_be_bytes([unreadable[LENGTH_AT], unreadable[LENGTH_AT + 1]]) - 1;
    unreadable[LENGTH_AT..LENGTH_AT + 2].copy_from_slice(&body.to_be_bytes());
    unreadable.pop();
    let unreadable = sealed(unreadable);
    let begun = Instant::now();
    let mut raw = Raw::dial(&rig).await;
    // It is answered each time, and asks again soon after.
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    let mut answered = 0;
    loop {
        pace.tick().await;
        if raw.0.get_mut().write_all(&unreadable).await.is_err() {
            break;
        }
        let Some(answer) = raw.next().await else { break };
        let malformed = matches!(&answer.message, Message::Failure(failure) if failure.code == ErrorCode::MALFORMED);
        assert!(malformed, "{answer:?}");
        answered += 1;
        assert!(begun.elapsed() < PATIENCE, "it is never cut");
    }
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(answered > 1, "the frame was whole: the connection lasted");
    rig.until("counted", |status| status.counters["clients_silent"] == 1).await;
    rig.until_logged("a client did not say Hello in time").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_hello_is_answered_with_the_same_welcome_and_changes_nothing() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let (mut raw, welcome) = Raw::welcomed(&rig).await;
    assert_eq!(welcome.id, 0, "a scheduler has none");
    raw.send(Packet { header: Header { request: 7, ..Header::default() }, ..known() }).await;
    let again = raw.next().await.unwrap();
    assert_eq!((again.header.request, again.header.flags), (7, Flags::FINAL_ANSWER));
    assert_eq!(again.message, Message::from(welcome));
    // Nobody becomes another client by saying so (rule 16).
    raw.send(hello(OPERATOR, &format!("client {OPERATOR}"), VERSION)).await;
    let other = raw.next().await.unwrap();
    assert!(matches!(&other.message, Message::Failure(failure) if failure.code == ErrorCode::EXISTS), "{other:?}");
    raw.send(packet(8, KeepAlive {})).await;
    assert!(matches!(raw.next().await.unwrap().message, Message::KeepAliveAnswer(_)));
    assert_eq!(rig.status().await.unwrap().clients.connected, 1);
}
