//! Goal: a simulated server relays as SPEC 9.1 says, and what it may not pass on it refuses. Method: raw packets to
//! one, with another below it, and with a false one below it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures_util::{SinkExt, StreamExt};
use remeet::simulator::{Child, Options, Running, Simulator};
use remeet_protocol::message::{Goodbye, Hello, KeepAlive, Query, Role, Welcome};
use remeet_protocol::packet::{HOPS_MAX, Header, VERSION};
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, BootId, DomainId, ErrorCode, Flags, Holder, Message, Packet, PacketCodec, ServerId};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::Framed;

const PATIENCE: Duration = Duration::from_secs(20);
const ABOVE: ServerId = ServerId(1);
const BELOW: ServerId = ServerId(2);

struct Peer {
    stream: Framed<TcpStream, PacketCodec>,
    request: u64,
}

impl Peer {
    async fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream: Framed::new(stream, PacketCodec::stream()), request: 0 }
    }

    async fn ask_after(&mut self, to: ServerId, hops: u8, message: impl Into<Message>) -> Packet {
        self.request += 1;
        let packet = Packet {
            destination: Address::server(to),
            source: Address::scheduler(DomainId(1)),
            header: Header { request: self.request, hops, ..Header::default() },
            message: message.into(),
        };
        self.stream.send(packet).await.unwrap();
        self.next().await
    }

    async fn ask(&mut self, to: ServerId, message: impl Into<Message>) -> Packet {
        self.ask_after(to, 0, message).await
    }

    async fn next(&mut self) -> Packet {
        tokio::time::timeout(PATIENCE, self.stream.next()).await.unwrap().unwrap().unwrap().unwrap()
    }

    async fn refused(&mut self, to: ServerId, hops: u8, message: impl Into<Message>) -> String {
        let answer = self.ask_after(to, hops, message).await;
        assert_eq!((answer.source, answer.header.request), (Address::server(to), self.request));
        match answer.message {
            Message::Failure(failure) => {
                assert_eq!(failure.code, ErrorCode::UNREACHABLE);
                failure.detail.as_str().to_owned()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn hello() -> Hello {
    Hello {
        role: Role::Scheduler,
        id: 1,
        name: Text::cut("under test"),
        instance: Holder::default(),
        version_min: VERSION,
        version_max: VERSION,
    }
}

async fn above(below: SocketAddr) -> Running {
    let children = vec![Child { id: BELOW, address: below, below: vec![ServerId(3)] }];
    let options = Options { server_id: ABOVE.0, children, keep_alive_ms: 60_000, ..Options::default() };
    Simulator::spawn(options).await.unwrap()
}

#[tokio::test]
async fn a_packet_goes_on_by_its_destination_and_its_answer_comes_back_with_its_source() {
    let below = Simulator::spawn(Options { server_id: BELOW.0, ..Options::default() }).await.unwrap();
    let above = above(below.address).await;
    let mut peer = Peer::dial(above.address).await;
    for server in [ABOVE, BELOW] {
        let answer = peer.ask(server, hello()).await;
        let Message::Welcome(welcome) = &answer.message else { panic!("{answer:?}") };
        assert_eq!((answer.source, welcome.id), (Address::server(server), server.0), "each speaks for itself");
    }
    let end = peer.ask(BELOW, Query { cut: 0, after: 0, packets_max: 1 }).await;
    assert_eq!((end.source, end.header.hops), (Address::server(BELOW), 1), "one relay has passed it");
    let Message::InventoryEnd(end) = end.message else { panic!("{end:?}") };
    assert_eq!((end.complete, end.boot), (true, below.dump().boot), "its own complete mark and boot id");
    assert_ne!(end.boot, above.dump().boot);

    // It ends: its conversation is over, and nobody else's (SPEC L-4).
    below.stop().await.unwrap();
    let told = peer.next().await;
    assert_eq!(told.source, Address::server(BELOW));
    assert!(matches!(told.message, Message::Goodbye(_)), "{told:?}");
    assert!(peer.refused(BELOW, 0, KeepAlive {}).await.contains("it is gone"));
    assert!(peer.refused(BELOW, 0, hello()).await.contains("cannot be connected"));
    let alive = peer.ask(ABOVE, KeepAlive {}).await;
    assert!(matches!(alive.message, Message::KeepAliveAnswer(_)), "{alive:?}");
}

#[tokio::test]
async fn what_is_not_below_or_has_no_conversation_or_passed_too_many_relays_is_refused() {
    let below = Simulator::spawn(Options { server_id: BELOW.0, ..Options::default() }).await.unwrap();
    let above = above(below.address).await;
    let mut peer = Peer::dial(above.address).await;
    peer.ask(ABOVE, hello()).await;
    assert!(peer.refused(ServerId(66), 0, hello()).await.contains("no server of this address"));
    assert!(peer.refused(BELOW, 0, KeepAlive {}).await.contains("say Hello first"));
    assert!(peer.refused(BELOW, HOPS_MAX, hello()).await.contains("as many relays"));
    let answer = peer.ask_after(BELOW, HOPS_MAX - 1, hello()).await;
    assert!(matches!(answer.message, Message::Welcome(_)), "{answer:?}");
    // Server 3 is said to be below server 2, which relays for nobody and answers as itself: it is not taken for 3.
    let answer = peer.ask(ServerId(3), hello()).await;
    assert!(matches!(&answer.message, Message::Welcome(welcome) if welcome.id == BELOW.0), "{answer:?}");
    assert_eq!(above.stats().relays_refused, 3);
}

/// Rule 16: a server below speaks for itself only; its parent passes nothing else on.
#[tokio::test]
async fn rule_16_what_a_server_below_says_in_another_name_is_not_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let above = above(listener.local_addr().unwrap()).await;
    let mut peer = Peer::dial(above.address).await;
    peer.ask(ABOVE, hello()).await;
    let liar = tokio::spawn(async move {
        let mut stream = Framed::new(listener.accept().await.unwrap().0, PacketCodec::stream());
        let asked: Packet = stream.next().await.unwrap().unwrap().unwrap();
        let say = |source: ServerId, message: Message, flags| Packet {
            destination: asked.source,
            source: Address::server(source),
            header: Header { flags, request: asked.header.request, ..Header::default() },
            message,
        };
        let welcome = |id: ServerId| Welcome {
            role: Role::Server,
            version: VERSION,
            domain: DomainId(1),
            id: id.0,
            name: Text::cut("liar"),
            boot: BootId::from_bytes([1; 16]),
            table_revision: 0,
            keep_alive_ms: 60_000,
        };
        let goodbye = Goodbye { code: ErrorCode::OK, detail: Text::default(), retry_after_ms: 0 };
        for packet in [
            say(ABOVE, goodbye.into(), Flags::NONE),
            say(ServerId(3), welcome(ServerId(3)).into(), Flags::FINAL_ANSWER),
            say(BELOW, welcome(BELOW).into(), Flags::FINAL_ANSWER),
        ] {
            stream.send(packet).await.unwrap();
        }
        stream
    });
    let answer = peer.ask(BELOW, hello()).await;
    assert_eq!(answer.source, Address::server(BELOW), "{answer:?}");
    assert_eq!(above.stats().relays_refused, 2);
    drop(liar.await.unwrap());
}
