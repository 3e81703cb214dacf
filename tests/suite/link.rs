//! Links over real sockets on loopback: batches, broken and cut streams, slow peers, redialling; then the
//! clients' side: cap, handshake deadline, slow clients.
//!
//! Nothing here sleeps for luck: every wait is for an event, within a deadline.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use remeet::link::*;
use remeet_protocol::message::*;
use remeet_protocol::packet::Header;
use remeet_protocol::wire::Text;
use remeet_protocol::*;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::codec::Framed;

const SERVER: ServerId = ServerId(3);

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("{what}: not within 10 s"))
}

fn packet(number: u64) -> Packet {
    Packet {
        destination: Address::server(SERVER),
        source: Address::scheduler(DomainId(1)),
        header: Header { request: number, ..Header::default() },
        message: KeepAlive {}.into(),
    }
}

fn hello() -> Packet {
    let hello = Hello {
        role: Role::Scheduler,
        id: 1,
        name: Text::cut("scheduler"),
        instance: Holder::default(),
        version_min: 0x20,
        version_max: 0x20,
    };
    Packet { message: hello.into(), ..packet(0) }
}

/// A packet of the greatest length.
fn long_packet(number: u64) -> Packet {
    Packet { message: Message::Unknown { kind: 0x0777, body: vec![7; 1_024].into() }, ..packet(number) }
}

fn bytes_of(packets: impl IntoIterator<Item = Packet>) -> BytesMut {
    let mut bytes = BytesMut::new();
    packets.into_iter().for_each(|packet| packet.write(&mut bytes).unwrap());
    bytes
}

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
        let ClientLinkEvent::Connected { connection, peer, outbox, close } = self.event().await else {
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
    assert!(matches!(told.message, Message::Goodbye(goodbye) if goodbye.code == ErrorCode::TOO_MANY));
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
