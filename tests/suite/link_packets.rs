//! Packets and waits that the `link*` tests share.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use remeet_protocol::message::*;
use remeet_protocol::packet::Header;
use remeet_protocol::wire::Text;
use remeet_protocol::*;
use std::future::Future;
use std::time::Duration;

pub(crate) const SERVER: ServerId = ServerId(3);

pub(crate) async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("{what}: not within 10 s"))
}

pub(crate) fn packet(number: u64) -> Packet {
    Packet {
        destination: Address::server(SERVER),
        source: Address::scheduler(DomainId(1)),
        header: Header { request: number, ..Header::default() },
        message: KeepAlive {}.into(),
    }
}

pub(crate) fn hello() -> Packet {
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
pub(crate) fn long_packet(number: u64) -> Packet {
    Packet { message: Message::Unknown { kind: 0x0777, body: vec![7; 1_024].into() }, ..packet(number) }
}

pub(crate) fn bytes_of(packets: impl IntoIterator<Item = Packet>) -> BytesMut {
    let mut bytes = BytesMut::new();
    packets.into_iter().for_each(|packet| packet.write(&mut bytes).unwrap());
    bytes
}
