//! A bare pump of the packets of a recovery, a connection a server.

use super::Load;
use crate::stage::{DOMAIN, StageError};
use bytes::BytesMut;
use futures_util::future::try_join_all;
use remeet_protocol::message::{
    EndCause, InventoryEntry, InventoryPage, LegState, Message, PullPage, Takeover, TakeoverAnswer, TakeoverClaim,
    TakeoverResult,
};
use remeet_protocol::packet::Header;
use remeet_protocol::record::{EntryRow, Mark, Record, RecordState};
use remeet_protocol::wire::{Blob, Text, pack};
use remeet_protocol::{
    Address, BootId, Change, DomainId, ErrorCode, Handle, LegId, Packet, PacketCodec, ServerId, Token,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Decoder, Encoder};

/// What is collected before it is given to the socket, and read from it at once.
const BUFFER: usize = 64 * 1024;

/// Both ends of the connections.
pub(super) struct Plain(Vec<Pair>);

struct Pair {
    server: ServerId,
    legs: Vec<LegId>,
    changes: usize,
    scheduler: TcpStream,
    served: TcpStream,
}

impl Plain {
    pub(super) async fn open(load: &Load) -> Result<Self, StageError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(StageError::new)?;
        let address = listener.local_addr().map_err(StageError::new)?;
        let (mut pairs, servers) = (Vec::new(), load.legs.len().max(1));
        for (place, (server, legs)) in load.legs.iter().enumerate() {
            let (scheduler, served) = tokio::join!(TcpStream::connect(address), listener.accept());
            let scheduler = scheduler.map_err(StageError::new)?;
            let (served, _) = served.map_err(StageError::new)?;
            // As both ends of a link do.
            scheduler.set_nodelay(true).map_err(StageError::new)?;
            served.set_nodelay(true).map_err(StageError::new)?;
            let changes = load.changes / servers + usize::from(place < load.changes % servers);
            pairs.push(Pair { server: *server, legs: legs.clone(), changes, scheduler, served });
        }
        Ok(Self(pairs))
    }

    pub(super) async fn work(self) -> Result<(), StageError> {
        let ends = self.0.into_iter().flat_map(|pair| {
            let Pair { server, legs, changes, scheduler, served } = pair;
            let counts = [pages(&legs).len(), results(&legs).len() + pulled(&legs, changes).len()];
            let claims = claims(&legs);
            let claimed = claims.len();
            [
                tokio::spawn(async move {
                    let mut end = End::new(server, served);
                    end.send(pages(&legs)).await?;
                    end.take(claimed).await?;
                    end.send(results(&legs)).await?;
                    end.send(pulled(&legs, changes)).await
                }),
                tokio::spawn(async move {
                    let mut end = End::new(server, scheduler);
                    end.take(counts[0]).await?;
                    end.send(claims).await?;
                    end.take(counts[1]).await
                }),
            ]
        });
        for done in try_join_all(ends).await.map_err(StageError::new)? {
            done?;
        }
        Ok(())
    }
}

struct End {
    server: ServerId,
    stream: TcpStream,
    codec: PacketCodec,
    bytes: BytesMut,
}

impl End {
    fn new(server: ServerId, stream: TcpStream) -> Self {
        Self { server, stream, codec: PacketCodec::stream(), bytes: BytesMut::with_capacity(BUFFER) }
    }

    async fn send(&mut self, messages: Vec<Message>) -> Result<(), StageError> {
        let mut out = BytesMut::with_capacity(BUFFER);
        for message in messages {
            let packet = Packet {
                destination: Address::scheduler(DomainId(DOMAIN)),
                source: Address::server(self.server),
                header: Header::default(),
                message,
            };
            self.codec.encode(packet, &mut out).map_err(StageError::new)?;
            if out.len() >= BUFFER {
                self.stream.write_all(&out).await.map_err(StageError::new)?;
                out.clear();
            }
        }
        self.stream.write_all(&out).await.map_err(StageError::new)
    }

    async fn take(&mut self, packets: usize) -> Result<(), StageError> {
        let mut left = packets;
        while left > 0 {
            match self.codec.decode(&mut self.bytes).map_err(StageError::new)? {
                Some(packet) => {
                    packet.map_err(StageError::new)?;
                    left -= 1;
                }
                None => {
                    self.bytes.reserve(BUFFER);
                    if self.stream.read_buf(&mut self.bytes).await.map_err(StageError::new)? == 0 {
                        return Err(StageError::new("the packet pump's connection ended"));
                    }
                }
            }
        }
        Ok(())
    }
}

fn handles(legs: &[LegId]) -> impl Iterator<Item = (Handle, LegId)> {
    (1..).map(Handle).zip(legs.iter().copied())
}

fn pages(legs: &[LegId]) -> Vec<Message> {
    let entry = |(handle, leg)| InventoryEntry {
        handle,
        leg,
        state: LegState::Live,
        cause: EndCause::None,
        mark: Mark::default(),
        terminals: 10,
        token: Token::default(),
    };
    let runs = pack(handles(legs).map(entry), InventoryPage::ENTRIES_ROOM);
    runs.into_iter().map(|entries| InventoryPage { cut: 1, entries }.into()).collect()
}

fn claims(legs: &[LegId]) -> Vec<Message> {
    let claims: Vec<_> = handles(legs).map(|(handle, leg)| TakeoverClaim { handle, leg, proof: [7; 32] }).collect();
    claims.chunks(Takeover::CLAIMS_MAX).map(|claims| Takeover { claims: claims.to_vec() }.into()).collect()
}

fn results(legs: &[LegId]) -> Vec<Message> {
    let result = |(handle, leg)| TakeoverResult {
        handle,
        leg,
        code: ErrorCode::OK,
        retry_after_ms: 0,
        mark: Mark::default(),
        intent: 0,
    };
    let results: Vec<_> = handles(legs).map(result).collect();
    let answer = |results: &[TakeoverResult]| TakeoverAnswer {
        boot: BootId::default(),
        table_revision: 1,
        results: results.to_vec(),
    };
    results.chunks(Takeover::CLAIMS_MAX).map(|results| answer(results).into()).collect()
}

fn pulled(legs: &[LegId], changes: usize) -> Vec<Message> {
    let row = |place: usize| EntryRow {
        terminal: Text::cut(&format!("5{place:09}")),
        key: Text::cut("temperature"),
        value: Blob::new(&b"4711471147"[..]).unwrap_or_default(),
    };
    let change = |place| Change { revision: 7, state: RecordState::Present(Record::Entry(row(place))) };
    let Some(leg) = legs.first().copied() else { return Vec::new() };
    let runs = pack((0..changes).map(change), PullPage::CHANGES_ROOM);
    runs.into_iter().map(|changes| PullPage { leg, changes }.into()).collect()
}
