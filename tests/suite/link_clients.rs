//! The clients' side of links, over real sockets on loopback: cap, handshake deadline, slow clients.
//!
//! Nothing here sleeps for luck: every wait is for an event, within a deadline.

#![allow(clippy::unwrap_used)]

use crate::link_packets::*;
use futures_util::StreamExt;
use remeet::link::*;
use remeet_protocol::message::*;
use remeet_protocol::*;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::codec::Framed;

/// The clients' side.
struct Listening {
    listener: Listener,
    events: mpsc::Receiver<ClientLinkEvent>,
}

async fn listening(change: impl FnOnce(&mut ListenOptions)) -> Listening {
    let mut options = ListenOptions::new("127.0.0.1:0".parse().unwrap(), Address::scheduler(DomainId(1)));
    change(&mut options);
    let (sender, events) = mpsc::channel(16);
    Listening { listener: listen(options, sender).await.unwrap(), events }
}

impl Listening {
    /// A client that has sent its first packet, and what its owner got.
    async fn client(&mut self) -> (TcpStream, ConnectionId, Outbox, tokio_util::sync::CancellationToken) {
        let mut stream = TcpStream::connect(self.listener.address).await.unwrap();
        stream.write_all(&bytes_of([hello()])).await.unwrap();
        let ClientLinkEvent::Connected { connection, peer, outbox, close, .. } = self.event().await else {
            panic!("connected")
        };
        assert_eq!(peer, stream.local_addr().unwrap());
        match self.event().await {
            ClientLinkEvent::Packets(of, packets) => {
                assert_eq!((of, packets), (connection, vec![Ok(hello())]));
            }
            other => panic!("{other:?}"),
        }
        (stream, connection, outbox, close)
    }

    async fn event(&mut self) -> ClientLinkEvent {
        within("a client's event", self.events.recv()).await.unwrap()
    }

    async fn closed(&mut self) -> (ConnectionId, String, bool) {
        match self.event().await {
            ClientLinkEvent::Closed { connection, reason, broken } => (connection, reason, broken),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn clients_are_served_side_by_side_and_closed_with_their_last_words() {
    let mut listening = listening(|_| {}).await;
    let (one, first, first_out, first_close) = listening.client().await;
    let (two, second, second_out, _close) = listening.client().await;
    assert_ne!(first, second);
    let (mut one, mut two) = (Framed::new(one, PacketCodec::stream()), Framed::new(two, PacketCodec::stream()));
    second_out.try_send(vec![packet(2)]).unwrap();
    first_out.try_send(vec![packet(1)]).unwrap();
    first_close.cancel();
    assert_eq!(within("one", one.next()).await.unwrap().unwrap().unwrap(), packet(1));
    assert!(within("its end", one.next()).await.is_none());
    assert_eq!(within("two", two.next()).await.unwrap().unwrap().unwrap(), packet(2));
    let (closed, _, broken) = listening.closed().await;
    assert_eq!((closed, broken), (first, false));
    assert_eq!(within("closed", first_out.send(vec![packet(3)])).await, Err(SendError::Closed));
    drop(two);
    assert_eq!(listening.closed().await.0, second);
}

#[tokio::test]
async fn rule_17_connections_beyond_the_cap_are_told_and_closed() {
    let mut listening = listening(|options| options.connections_max = 2).await;
    let (one, first, _out, _close) = listening.client().await;
    let _two = listening.client().await;
    let three = TcpStream::connect(listening.listener.address).await.unwrap();
    let mut three = Framed::new(three, PacketCodec::stream());
    let told = within("goodbye", three.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(told.message, Message::Goodbye(goodbye) if goodbye.code == ErrorCode::BUSY));
    assert!(within("the end", three.next()).await.is_none());
    assert_eq!(listening.listener.counters.refused.load(Ordering::Relaxed), 1);
    drop(one);
    assert_eq!(listening.closed().await.0, first);
    // The place is free once the connection's task is gone, a moment after its event.
    let deadline = Instant::now() + Duration::from_secs(10);
    while listening.listener.counters.open.load(Ordering::Relaxed) > 1 {
        assert!(Instant::now() < deadline, "its place was never freed");
        tokio::task::yield_now().await;
    }
    listening.client().await;
}

#[tokio::test]
async fn a_client_without_a_first_packet_is_closed_and_never_reported() {
    let mut listening = listening(|options| options.handshake_deadline = Duration::from_millis(150)).await;
    let mut silent = TcpStream::connect(listening.listener.address).await.unwrap();
    let mut half = TcpStream::connect(listening.listener.address).await.unwrap();
    half.write_all(&bytes_of([hello()])[..30]).await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(within("silent", silent.read_to_end(&mut rest)).await.unwrap_or(0), 0);
    assert_eq!(within("half", half.read_to_end(&mut rest)).await.unwrap_or(0), 0);
    assert_eq!(listening.listener.counters.silent.load(Ordering::Relaxed), 2);
    listening.client().await;
}

#[tokio::test]
async fn bytes_that_are_no_packets_close_only_their_own_connection() {
    let mut listening = listening(|_| {}).await;
    let (mut bad, first, _out, _close) = listening.client().await;
    let (good, second, out, _close) = listening.client().await;
    bad.write_all(&[0xAA; 200]).await.unwrap();
    let (closed, reason, broken) = listening.closed().await;
    assert_eq!((closed, broken), (first, true), "{reason}");
    let mut stranger = TcpStream::connect(listening.listener.address).await.unwrap();
    stranger.write_all(&[0x55; 200]).await.unwrap();
    let mut rest = Vec::new();
    // A reset is as good an end as a close: its own bytes may be unread.
    within("the stranger's end", stranger.read_to_end(&mut rest)).await.unwrap_or(0);
    assert_eq!(listening.listener.counters.broken.load(Ordering::Relaxed), 2);
    out.try_send(vec![packet(4)]).unwrap();
    let mut good = Framed::new(good, PacketCodec::stream());
    assert_eq!(within("good", good.next()).await.unwrap().unwrap().unwrap(), packet(4), "{second:?}");
}

#[tokio::test]
async fn a_slow_client_is_reported_and_cut_and_harms_nobody() {
    let mut listening = listening(|options| {
        options.queue_packets = 200;
        options.write_deadline = Duration::from_millis(500);
    })
    .await;
    let (_slow, slow_id, slow_out, _close) = listening.client().await;
    let (quick, _, quick_out, _close) = listening.client().await;
    let mut quick = Framed::new(quick, PacketCodec::stream());
    let mut full = false;
    for number in 0..200_000 {
        match slow_out.try_send(vec![long_packet(number); 100]) {
            Err(SendError::Full(_)) => {
                full = true;
                break;
            }
            Err(SendError::Closed) => break,
            Ok(()) => tokio::task::yield_now().await,
        }
    }
    assert!(full, "its owner learns that it is too slow");
    quick_out.try_send(vec![packet(1)]).unwrap();
    assert_eq!(within("quick", quick.next()).await.unwrap().unwrap().unwrap(), packet(1));
    // Keeps it full, so that the write deadline runs out.
    while slow_out.send(vec![long_packet(0); 100]).await.is_ok() {}
    let (closed, reason, _) = listening.closed().await;
    assert_eq!(closed, slow_id);
    assert!(reason.contains("did not read"), "{reason}");
}

#[tokio::test]
async fn a_listener_ends_every_connection_even_if_nobody_takes_events() {
    let mut listening = listening(|_| {}).await;
    let (one, _, _out_one, _close_one) = listening.client().await;
    let (two, _, _out_two, _close_two) = listening.client().await;
    let Listening { listener, events } = listening;
    within("close", listener.close()).await;
    for mut stream in [one, two] {
        let mut rest = Vec::new();
        assert_eq!(within("the end", stream.read_to_end(&mut rest)).await.unwrap(), 0);
    }
    drop(events);
}
