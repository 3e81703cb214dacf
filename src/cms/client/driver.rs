//! One task owns the socket: dials, shakes hands, moves packets, dials again.

use super::desk::{CommandAsk, Desk, Lost, ReadAsk};
use super::memory::Memory;
use super::{ClientError, ClientSettings, LinkState};
use bytes::BytesMut;
use futures_util::StreamExt;
use remeet_protocol::address::Address;
use remeet_protocol::message::{Goodbye, Hello, Role, Welcome};
use remeet_protocol::packet::VERSION;
use remeet_protocol::{DomainId, Epoch, ErrorCode, Header, Holder, Message, Packet, PacketCodec};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

/// Bytes that wait to be written; then no further request is taken on. Twice a full window of packets.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// A keep-alive goes out after this silence if the scheduler asks for none of its own.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The longest pause that a scheduler may ask for: a lying one shall not silence a client for ever.
const PAUSE_MAX: Duration = Duration::from_secs(60);

pub(super) async fn run(
    settings: ClientSettings,
    memory: Memory,
    commands: mpsc::Receiver<CommandAsk>,
    reads: mpsc::Receiver<ReadAsk>,
    link: watch::Sender<LinkState>,
    stop: CancellationToken,
) {
    let desk = Desk::new(&memory, settings.id);
    let mut driver = Driver { settings, memory, commands, reads, link, desk, place: 0, standbys: 0 };
    tokio::select! {
        () = stop.cancelled() => {}
        () = driver.keep_connected() => {}
    }
    driver.link.send_modify(|link| link.up = false);
    driver.desk.end();
    driver.remember().await;
}

struct Driver {
    settings: ClientSettings,
    memory: Memory,
    commands: mpsc::Receiver<CommandAsk>,
    reads: mpsc::Receiver<ReadAsk>,
    link: watch::Sender<LinkState>,
    desk: Desk,
    /// Which scheduler is dialled: 0 is `settings.address`, then `settings.others`.
    place: usize,
    /// Standbys found in a row: once all are, one of them has to do.
    standbys: usize,
}

struct Connection {
    reader: FramedRead<OwnedReadHalf, PacketCodec>,
    writer: Farewell,
    keep_alive: Duration,
}

/// Says goodbye when it is dropped, as far as that needs no waiting.
struct Farewell {
    writer: OwnedWriteHalf,
    packet: Vec<u8>,
    /// What was written last ended with a packet's end.
    whole: bool,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if self.whole {
            let _ = self.writer.try_write(&self.packet);
        }
    }
}

impl Driver {
    async fn keep_connected(&mut self) {
        let mut pause = self.settings.reconnect_first;
        loop {
            let wanted = match self.dial().await {
                Ok((_, welcome)) if self.is_passed_over(&welcome) => {
                    self.next_place();
                    continue;
                }
                Ok((connection, welcome)) => {
                    pause = self.settings.reconnect_first;
                    let standby = welcome.table_revision == 0 && !self.settings.others.is_empty();
                    self.desk.connected(welcome.domain, standby);
                    self.link.send_modify(|link| {
                        link.up = true;
                        link.connects += 1;
                        link.domain = welcome.domain;
                        link.epoch = Epoch(welcome.table_revision);
                        link.refused = None;
                    });
                    let lost = self.converse(connection).await;
                    self.desk.disconnected();
                    self.next_place();
                    self.note(lost)
                }
                Err(lost) => {
                    self.next_place();
                    self.note(lost)
                }
            };
            // A random part, so that clients of a restarted scheduler do not all come at once.
            let random = rand::random::<f64>();
            let rest = match wanted {
                Some(asked) => asked + asked.max(Duration::from_millis(100)).mul_f64(random),
                None => pause.mul_f64(0.5 + random / 2.0),
            };
            pause = (pause * 2).min(self.settings.reconnect_max);
            self.wait(tokio::time::sleep(rest.min(PAUSE_MAX))).await;
        }
    }

    /// Whether this scheduler is a standby while another may hold a term.
    fn is_passed_over(&mut self, welcome: &Welcome) -> bool {
        let passed = welcome.table_revision == 0 && self.standbys < self.settings.others.len();
        self.standbys = if passed { self.standbys + 1 } else { 0 };
        passed
    }

    fn next_place(&mut self) {
        self.place = (self.place + 1) % (self.settings.others.len() + 1);
    }

    fn address(&self) -> SocketAddr {
        self.place
            .checked_sub(1)
            .and_then(|place| self.settings.others.get(place))
            .copied()
            .unwrap_or(self.settings.address)
    }

    /// Tells why the link is down. The pause that the scheduler asked for, if it did.
    fn note(&self, lost: Lost) -> Option<Duration> {
        let (text, refused, pause) = match lost {
            Lost::Link(text) => (text, None, None),
            Lost::Goodbye(goodbye) => {
                let asked = Duration::from_millis(goodbye.retry_after_ms.into());
                let text = format!("the scheduler said goodbye: {}: {}", goodbye.code, goodbye.detail);
                (text, refusal(goodbye.code, goodbye.detail.as_str()), Some(asked))
            }
            Lost::Refused(failure) => {
                let asked = Duration::from_millis(failure.retry_after_ms.into());
                let text = format!("the scheduler refused the connection: {}: {}", failure.code, failure.detail);
                (text, refusal(failure.code, failure.detail.as_str()), (!asked.is_zero()).then_some(asked))
            }
        };
        tracing::debug!(reason = text, "the connection to the scheduler is down");
        self.link.send_modify(|link| {
            link.up = false;
            link.last_error = Some(text);
            link.refused = refused;
        });
        pause
    }

    /// Awaits something while deadlines of open requests go on.
    async fn wait<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return done,
                () = sleep_until(self.desk.next_wake()) => self.desk.tick(Instant::now(), &self.link.borrow()),
            }
        }
    }

    async fn dial(&mut self) -> Result<(Connection, Welcome), Lost> {
        let hello = self.hello();
        let source = self.desk.source();
        let (address, deadline) = (self.address(), self.settings.connect_deadline);
        let late = move |_| Lost::Link(format!("no answer from {address} within {} ms", deadline.as_millis()));
        self.wait(timeout(deadline, shake_hands(address, hello, source))).await.map_err(late)?
    }

    fn hello(&self) -> Hello {
        let mut instance = [0; 16];
        instance[8..].copy_from_slice(&self.memory.instance.to_be_bytes());
        Hello {
            role: Role::Client,
            id: self.settings.id,
            name: self.settings.name.clone(),
            instance: Holder::from_bytes(instance),
            version_min: VERSION,
            version_max: VERSION,
        }
    }

    /// Moves packets until the link is lost.
    async fn converse(&mut self, mut connection: Connection) -> Lost {
        let mut heard = Instant::now();
        let mut asked = false;
        loop {
            if !self.desk.ended.is_empty() {
                self.remember().await;
            }
            let Self { desk, commands, reads, link, .. } = &mut *self;
            let room = desk.out.len() < OUT_BYTES_MAX;
            let has_output = !desk.out.is_empty();
            let (takes_commands, takes_reads) = (room && desk.takes_commands(), room && desk.takes_reads());
            let silence = heard + connection.keep_alive * if asked { 3 } else { 1 };
            let wake = desk.next_wake().min(silence);
            tokio::select! {
                written = connection.writer.writer.write_buf(&mut desk.out), if has_output => match written {
                    Ok(0) => return Lost::Link("the scheduler closed the connection".to_owned()),
                    Ok(_) => connection.writer.whole = desk.out.is_empty(),
                    Err(error) => return Lost::Link(format!("sending failed: {error}")),
                },
                incoming = connection.reader.next() => {
                    heard = Instant::now();
                    asked = false;
                    let packet = match incoming {
                        Some(Ok(Ok(packet))) => packet,
                        Some(Ok(Err(rejected))) => {
                            // The frame was whole: the stream can still be trusted.
                            tracing::warn!(%rejected, "a packet from the scheduler cannot be read");
                            continue;
                        }
                        Some(Err(error)) => return Lost::Link(format!("receiving failed: {error}")),
                        None => return Lost::Link("the scheduler closed the connection".to_owned()),
                    };
                    if let Err(lost) = desk.packet(packet, heard) {
                        return lost;
                    }
                }
                Some(ask) = commands.recv(), if takes_commands => self.take_commands(ask).await,
                Some(ask) = reads.recv(), if takes_reads => {
                    desk.take_read(ask);
                    while desk.takes_reads() && let Ok(ask) = reads.try_recv() {
                        desk.take_read(ask);
                    }
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    desk.tick(now, &link.borrow());
                    if now >= silence {
                        if asked {
                            let silent = now.duration_since(heard).as_millis();
                            return Lost::Link(format!("the scheduler was silent for {silent} ms"));
                        }
                        asked = true;
                        desk.keep_alive();
                    }
                }
            }
        }
    }

    /// Notes which commands ended. The file follows when none is on its way: what it holds beyond that is
    /// only taken for open longer than it is, and a save for each answer would cost more than the answer.
    async fn remember(&mut self) {
        for (number, with_answer) in self.desk.ended.drain(..) {
            self.memory.ended(number, with_answer);
        }
        if self.memory.is_idle()
            && let Err(error) = self.memory.save().await
        {
            tracing::warn!(%error, "the client's state was not saved");
        }
    }

    /// Everything that was commanded at the same time: numbered, saved, sent.
    async fn take_commands(&mut self, first: CommandAsk) {
        let mut numbers = Vec::new();
        let mut next = Some(first);
        while let Some(ask) = next {
            numbers.extend(self.desk.take_command(ask, &mut self.memory));
            next = if self.desk.takes_commands() { self.commands.try_recv().ok() } else { None };
        }
        if self.memory.is_kept() {
            // Numbers are on disk before their commands leave; the file holds what is open.
            if let Err(error) = self.memory.save().await {
                for number in numbers {
                    self.desk.give_up(number, ClientError::Memory(error.clone()));
                }
                return;
            }
        }
        for number in numbers {
            self.desk.send_command(number);
        }
    }
}

async fn shake_hands(
    address: std::net::SocketAddr,
    hello: Hello,
    source: Address,
) -> Result<(Connection, Welcome), Lost> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| Lost::Link(format!("{address} cannot be reached: {error}")))?;
    // Answers are awaited one by one by people: no delay for the sake of fuller segments.
    stream.set_nodelay(true).map_err(|error| Lost::Link(format!("the socket failed: {error}")))?;
    let (reader, mut writer) = stream.into_split();
    // Read buffers of 64 KiB move twice the packets that the default 8 KiB do (measured).
    let mut reader = FramedRead::with_capacity(reader, PacketCodec::stream(), 64 * 1024);
    let packet = |message: Message| {
        let mut out = BytesMut::new();
        let header = Header { request: 1, ..Header::default() };
        Packet { destination: Address::scheduler(DomainId(0)), source, header, message }
            .write(&mut out)
            .map_err(|error| Lost::Link(error.to_string()))?;
        Ok::<_, Lost>(out)
    };
    let hello = packet(hello.into())?;
    writer.write_all(&hello).await.map_err(|error| Lost::Link(format!("sending failed: {error}")))?;
    let welcome = match reader.next().await {
        Some(Ok(Ok(Packet { message: Message::Welcome(welcome), .. }))) => welcome,
        Some(Ok(Ok(Packet { message: Message::Failure(failure), .. }))) => return Err(Lost::Refused(failure)),
        Some(Ok(Ok(Packet { message: Message::Goodbye(goodbye), .. }))) => return Err(Lost::Goodbye(goodbye)),
        Some(Ok(Ok(packet))) => {
            return Err(Lost::Link(format!("{address} answered the hello with {}", packet.message.name())));
        }
        Some(Ok(Err(rejected))) => {
            return Err(Lost::Link(format!("{address} does not speak the protocol: {rejected}")));
        }
        Some(Err(error)) => return Err(Lost::Link(format!("{address} does not speak the protocol: {error}"))),
        None => return Err(Lost::Link(format!("{address} closed the connection"))),
    };
    if welcome.role != Role::Scheduler {
        return Err(Lost::Link(format!("{address} is not a scheduler but {:?}", welcome.role)));
    }
    let keep_alive = match welcome.keep_alive_ms {
        0 => KEEP_ALIVE,
        ms => Duration::from_millis(ms.into()).clamp(Duration::from_millis(100), KEEP_ALIVE),
    };
    let goodbye = Goodbye { code: ErrorCode::OK, detail: Default::default(), retry_after_ms: 0 };
    let packet = packet(goodbye.into())?.to_vec();
    Ok((Connection { reader, writer: Farewell { writer, packet, whole: true }, keep_alive }, welcome))
}

/// Refusals that dialling again does not mend; it is done all the same, for configurations change.
fn refusal(code: ErrorCode, detail: &str) -> Option<remeet_protocol::message::Failure> {
    matches!(code, ErrorCode::UNKNOWN_IDENTITY | ErrorCode::WRONG_VERSION | ErrorCode::NOT_ALLOWED)
        .then(|| remeet_protocol::message::Failure::new(code, detail))
}
