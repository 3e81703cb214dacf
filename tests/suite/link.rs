//! Links over real sockets on loopback: batches, broken and cut streams, slow peers, redialling.
//!
//! Nothing here sleeps for luck: every wait is for an event, within a deadline.

#![allow(clippy::unwrap_used)]

use crate::link_packets::*;
use futures_util::{SinkExt, StreamExt};
use remeet::link::*;
use remeet_protocol::*;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::codec::Framed;

/// The test in the server's place.
struct Dialled {
    listener: TcpListener,
    link: LinkHandle,
    events: mpsc::Receiver<(ServerId, LinkEvent)>,
}

async fn dialled(change: impl FnOnce(&mut LinkOptions)) -> Dialled {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = LinkOptions::new(SERVER, listener.local_addr().unwrap());
    change(&mut options);
    let (sender, events) = mpsc::channel(16);
    let link = spawn(options, sender).unwrap();
    Dialled { listener, link, events }
}

impl Dialled {
    async fn accept(&mut self) -> TcpStream {
        let (stream, _) = within("accept", self.listener.accept()).await.unwrap();
        assert!(matches!(self.event().await, LinkEvent::Connected));
        stream
    }

    async fn event(&mut self) -> LinkEvent {
        let (server, event) = within("a link's event", self.events.recv()).await.unwrap();
        assert_eq!(server, SERVER);
        event
    }

    async fn disconnected(&mut self) -> String {
        match self.event().await {
            LinkEvent::Disconnected(reason) => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn requests(packets: Vec<Incoming>) -> Vec<u64> {
    packets.into_iter().map(|packet| packet.unwrap().header.request).collect()
}

#[tokio::test]
async fn plaintext_never_leaves_the_machine() {
    let beyond: SocketAddr = "192.0.2.1:7000".parse().unwrap();
    let (sender, _events) = mpsc::channel(1);
    let error = spawn(LinkOptions::new(SERVER, beyond), sender).unwrap_err();
    assert!(matches!(error, LinkError::NotLoopback(address) if address == beyond), "{error}");
    let (sender, _events) = mpsc::channel(1);
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let error = listen(ListenOptions::new(any, Address::scheduler(DomainId(1))), sender).await.unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
}

#[tokio::test]
async fn what_is_readable_at_once_comes_in_one_batch_and_in_order() {
    let mut dialled = dialled(|_| {}).await;
    let mut server = dialled.accept().await;
    server.write_all(&bytes_of((1..=1_000).map(packet))).await.unwrap();
    let (mut heard, mut batches) = (Vec::new(), 0);
    while heard.len() < 1_000 {
        let LinkEvent::Packets(packets) = dialled.event().await else { panic!("packets") };
        assert!(packets.len() <= 256);
        batches += 1;
        heard.extend(requests(packets));
    }
    assert_eq!(heard, (1..=1_000).collect::<Vec<_>>());
    assert!(batches < 100, "{batches} batches for 1000 packets");
}

#[tokio::test]
async fn batches_arrive_whole_in_order_and_only_from_the_hello_on() {
    let mut dialled = dialled(|_| {}).await;
    let server = dialled.accept().await;
    let mut server = Framed::new(server, PacketCodec::stream());
    dialled.link.try_send(vec![packet(90), packet(91)]).unwrap();
    dialled.link.try_send(vec![hello(), packet(1)]).unwrap();
    for number in 1..100 {
        dialled.link.send(vec![packet(number * 2), packet(number * 2 + 1)]).await.unwrap();
    }
    let first = within("hello", server.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first, hello(), "what came before belongs to an earlier connection");
    for number in 1..200 {
        let next = within("a packet", server.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(next.header.request, number);
    }
}

#[tokio::test]
async fn a_wrong_crc_closes_the_link_after_what_was_right() {
    let mut dialled = dialled(|_| {}).await;
    let mut server = dialled.accept().await;
    let mut bytes = bytes_of([packet(1), packet(2)]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    server.write_all(&bytes).await.unwrap();
    match dialled.event().await {
        LinkEvent::Packets(packets) => assert_eq!(requests(packets), [1]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(dialled.event().await, LinkEvent::Broken(reason) if reason.contains("CRC")));
    dialled.disconnected().await;
    let mut rest = Vec::new();
    assert_eq!(within("the end", server.read_to_end(&mut rest)).await.unwrap(), 0);
    dialled.accept().await;
}

#[tokio::test]
async fn a_stream_cut_inside_a_packet_is_a_lost_link_not_a_breach() {
    let mut dialled = dialled(|_| {}).await;
    let mut server = dialled.accept().await;
    server.write_all(&bytes_of([packet(1)])[..20]).await.unwrap();
    drop(server);
    assert!(dialled.disconnected().await.contains("20 bytes into a packet"));
}

#[tokio::test]
async fn a_server_that_does_not_read_is_cut() {
    let mut dialled = dialled(|options| options.write_deadline = Duration::from_millis(300)).await;
    let _server = dialled.accept().await;
    dialled.link.try_send(vec![hello()]).unwrap();
    // Far more than both sockets' buffers hold.
    let sending = async {
        for number in 0.. {
            if dialled.link.send((0..100).map(|_| long_packet(number)).collect()).await.is_err() {
                break;
            }
        }
    };
    let reason = tokio::select! {
        () = sending => panic!("the link ended"),
        event = dialled.events.recv() => event.unwrap().1,
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("not cut within 10 s"),
    };
    assert!(matches!(reason, LinkEvent::Disconnected(reason) if reason.contains("did not read")));
}

#[tokio::test]
async fn rule_17_a_full_queue_gives_the_packets_back() {
    let dialled = dialled(|options| options.queue_packets = 4).await;
    // Nobody accepted yet, or nobody takes anything out: at most four fit.
    let given: Vec<_> = (0..50).map(|number| dialled.link.try_send(vec![packet(number); 3])).collect();
    assert!(
        given.iter().any(|given| matches!(given, Err(SendError::Full(packets)) if packets.len() == 3)),
        "{given:?}"
    );
}

#[tokio::test]
async fn a_full_event_queue_stops_reading_but_not_writing() {
    let (sender, mut events) = mpsc::channel(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = spawn(LinkOptions::new(SERVER, listener.local_addr().unwrap()), sender).unwrap();
    let (server, _) = within("accept", listener.accept()).await.unwrap();
    let mut server = Framed::new(server, PacketCodec::stream());
    assert!(matches!(within("connected", events.recv()).await, Some((_, LinkEvent::Connected))));
    for number in 1..=20 {
        server.send(packet(number)).await.unwrap();
        tokio::task::yield_now().await;
    }
    link.send(vec![hello(), packet(1)]).await.unwrap();
    within("hello", server.next()).await.unwrap().unwrap().unwrap();
    within("a packet", server.next()).await.unwrap().unwrap().unwrap();
    let mut heard = Vec::new();
    while heard.len() < 20 {
        let Some((_, LinkEvent::Packets(packets))) = within("packets", events.recv()).await else { panic!("packets") };
        heard.extend(requests(packets));
    }
    assert_eq!(heard, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_within_three_seconds() {
    let mut dialled = dialled(|_| {}).await;
    let address = dialled.listener.local_addr().unwrap();
    let server = dialled.accept().await;
    drop(server);
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    drop(std::mem::replace(&mut dialled.listener, other));
    dialled.disconnected().await;
    // Down long enough for dials to fail.
    let failed = loop {
        match dialled.event().await {
            LinkEvent::Disconnected(reason) if reason.contains("cannot connect") => break reason,
            LinkEvent::Disconnected(_) | LinkEvent::Connected => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(failed.contains(&address.to_string()), "it names the address: {failed}");
    dialled.listener = TcpListener::bind(address).await.unwrap();
    let back = Instant::now();
    loop {
        match dialled.event().await {
            LinkEvent::Connected => break,
            LinkEvent::Disconnected(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
}

#[tokio::test]
async fn a_closed_link_sends_its_last_words_and_waits_as_asked() {
    let mut dialled = dialled(|_| {}).await;
    let server = dialled.accept().await;
    let mut server = Framed::new(server, PacketCodec::stream());
    dialled.link.try_send(vec![hello(), packet(7)]).unwrap();
    within("hello", server.next()).await.unwrap().unwrap().unwrap();
    within("a packet", server.next()).await.unwrap().unwrap().unwrap();
    dialled.link.try_send(vec![packet(8)]).unwrap();
    dialled.link.close_link("the session wants it", Duration::from_millis(400));
    let closed = Instant::now();
    assert_eq!(within("last words", server.next()).await.unwrap().unwrap().unwrap(), packet(8));
    assert!(within("the end", server.next()).await.is_none());
    assert_eq!(dialled.disconnected().await, "the session wants it");
    let server = dialled.accept().await;
    assert!(closed.elapsed() >= Duration::from_millis(400), "{:?}", closed.elapsed());
    dialled.link.close_link("for long", Duration::from_secs(3_600));
    dialled.disconnected().await;
    dialled.link.redial_now();
    dialled.accept().await;
    drop(server);
}

#[tokio::test]
async fn a_link_ends_when_told_whatever_it_does() {
    let mut dialled = dialled(|_| {}).await;
    let mut server = dialled.accept().await;
    let Dialled { listener, link, mut events } = dialled;
    within("close", link.close()).await;
    let mut rest = Vec::new();
    assert_eq!(within("the end", server.read_to_end(&mut rest)).await.unwrap(), 0);
    while within("events end", events.recv()).await.is_some() {}
    // While it pauses between dials, and while nobody takes its events.
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (sender, events) = mpsc::channel(1);
    let link = spawn(LinkOptions::new(SERVER, address), sender).unwrap();
    within("close", link.close()).await;
    drop(events);
}
