//! One client's connection: handshake, identity and rights (rule 16), requests, subscription.

use super::views::{self, Unavailable};
use crate::config::{Client, Config, Right};
use crate::link::Outbox;
use crate::recovery::{Published, Rights};
use crate::scheduler::{Handle, Presence};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use remeet_protocol::message::{
    ClientAnswer, ClientCommand, ClientEvent, EventKind, Failure, Goodbye, Hello, KeepAliveAnswer, Reset, Role,
    Subscribed, Welcome,
};
use remeet_protocol::packet::{Header, VERSION};
use remeet_protocol::wire::{Text, pack};
use remeet_protocol::{Address, BootId, DomainId, ErrorCode, Flags, Incoming, MeetingId, Message, Packet};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// Requests of one client under way; more wait in its socket. Twice what the client library sends.
const IN_FLIGHT: usize = 256;
/// Packets of one client that wait for room among those; a client that sends more without waiting for its
/// answers is cut.
const BACKLOG: usize = 4_096;
/// Meetings whose update a connection is promised at a time (SPEC K-7): more are answered without one.
const PROMISES: usize = 4_096;
/// A client that takes nothing for this long is given up; its link cuts it at about the same time.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// What a client that must come back is told to wait.
const RETRY_AFTER_MS: u32 = 200;

/// One client.
pub(super) struct Connection {
    peer: SocketAddr,
    outbox: Outbox,
    close: CancellationToken,
    config: Arc<Config>,
    handle: Handle,
    stop: CancellationToken,
    client: Option<Client>,
    _presence: Option<Presence>,
    in_flight: FuturesUnordered<BoxFuture<'static, Done>>,
    feed: Option<broadcast::Receiver<Arc<Published>>>,
    subscription: Option<Subscription>,
    /// Meetings whose update was promised, with the request that asked.
    promised: BTreeMap<MeetingId, u64>,
    /// Gets under way, and meetings that were recovered meanwhile: their answers may be older than that.
    gets: usize,
    refreshed: BTreeSet<MeetingId>,
    backlog: VecDeque<Incoming>,
}

struct Subscription {
    request: u64,
    meeting: Option<MeetingId>,
    sequence: u64,
    _presence: Presence,
}

/// What came of a request.
enum Done {
    Answer(Vec<Packet>),
    /// A get's answer.
    Meeting {
        packets: Vec<Packet>,
        meeting: MeetingId,
        request: u64,
        recovering: bool,
    },
    /// A get's failure.
    NoMeeting(Vec<Packet>),
}

/// The connection is over.
struct Over;

impl Connection {
    pub(super) fn new(
        peer: SocketAddr,
        outbox: Outbox,
        close: CancellationToken,
        config: Arc<Config>,
        handle: Handle,
        stop: CancellationToken,
    ) -> Self {
        Self {
            peer,
            outbox,
            close,
            config,
            handle,
            stop,
            client: None,
            _presence: None,
            in_flight: FuturesUnordered::new(),
            feed: None,
            subscription: None,
            promised: BTreeMap::new(),
            gets: 0,
            refreshed: BTreeSet::new(),
            backlog: VecDeque::new(),
        }
    }

    /// Serves the client until it leaves, misbehaves or the scheduler stops.
    pub(super) async fn run(mut self, mut packets: mpsc::Receiver<Vec<Incoming>>) {
        let stop = self.stop.clone();
        let mut terms = self.handle.terms();
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => {
                    self.goodbye().await;
                    Err(Over)
                }
                batch = packets.recv() => match batch {
                    Some(batch) => self.take(batch).await,
                    None => Err(Over),
                },
                Some(done) = self.in_flight.next() => match self.finish(done).await {
                    Ok(()) => self.take_backlog().await,
                    over => over,
                },
                published = next_published(&mut self.feed) => self.tell(published).await,
                Ok(()) = terms.changed() => self.begin_anew().await,
            };
            if next.is_err() {
                break;
            }
        }
        self.close.cancel();
    }

    async fn take(&mut self, batch: Vec<Incoming>) -> Result<(), Over> {
        self.backlog.extend(batch);
        self.take_backlog().await?;
        if self.backlog.len() > BACKLOG {
            self.handle.count("clients_cut");
            tracing::warn!(peer = %self.peer, "a client sends without waiting for its answers: it is cut");
            return Err(Over);
        }
        Ok(())
    }

    async fn take_backlog(&mut self) -> Result<(), Over> {
        while self.in_flight.len() < IN_FLIGHT
            && let Some(incoming) = self.backlog.pop_front()
        {
            match incoming {
                Ok(packet) if self.client.is_none() => self.greet(packet).await?,
                Ok(packet) => self.request(packet).await?,
                Err(rejected) => {
                    self.handle.count("client_packets_malformed");
                    tracing::warn!(peer = %self.peer, "a client's packet cannot be read: {rejected}");
                    let failure = Failure::new(rejected.code(), &rejected.to_string());
                    self.answer(rejected.head.header.request, failure.into()).await?;
                }
            }
        }
        Ok(())
    }

    // ---- handshake ----

    async fn greet(&mut self, packet: Packet) -> Result<(), Over> {
        let request = packet.header.request;
        let Message::Hello(hello) = packet.message else {
            return self.refuse(request, ErrorCode::UNKNOWN_IDENTITY, "say Hello first").await;
        };
        if hello.version_min > VERSION || hello.version_max < VERSION {
            let detail = format!("this side speaks version {}.{}", VERSION >> 4, VERSION & 15);
            return self.refuse(request, ErrorCode::WRONG_VERSION, &detail).await;
        }
        let Some(client) = self.identify(&hello) else {
            let detail = format!("no client {} named {:?} is in the configuration", hello.id, hello.name.as_str());
            return self.refuse(request, ErrorCode::UNKNOWN_IDENTITY, &detail).await;
        };
        tracing::debug!(peer = %self.peer, client = client.id, "a client connected");
        self.client = Some(client);
        self._presence = Some(self.handle.client_connected());
        let welcome = Welcome {
            role: Role::Scheduler,
            version: VERSION,
            domain: self.domain(),
            id: self.domain().0,
            name: Text::cut(&self.config.scheduler.name),
            boot: BootId(self.handle.holder().0),
            table_revision: self.handle.epoch().0,
            keep_alive_ms: u32::try_from(self.config.link.keep_alive.as_millis()).unwrap_or(u32::MAX),
        };
        self.answer(request, welcome.into()).await
    }

    fn identify(&self, hello: &Hello) -> Option<Client> {
        let declared = |client: &&Client| client.id == hello.id && client.name == hello.name.as_str();
        (hello.role == Role::Client).then(|| self.config.identities.iter().find(declared).cloned()).flatten()
    }

    async fn refuse(&mut self, request: u64, code: ErrorCode, detail: &str) -> Result<(), Over> {
        self.handle.count("clients_refused");
        tracing::warn!(peer = %self.peer, "a client was refused: {code}: {detail}");
        self.answer(request, Failure::new(code, detail).into()).await?;
        Err(Over)
    }

    fn may(&self, right: Right) -> bool {
        self.client.as_ref().is_some_and(|client| client.may(right))
    }

    // ---- requests ----

    async fn request(&mut self, packet: Packet) -> Result<(), Over> {
        let request = packet.header.request;
        let reads = matches!(packet.message, Message::Get(_) | Message::List(_) | Message::Subscribe(_));
        if reads && !self.may(Right::View) {
            self.visitor().denied(packet.message.name());
            let failure = Failure::new(ErrorCode::NOT_ALLOWED, "this needs the view right");
            return self.answer(request, failure.into()).await;
        }
        match packet.message {
            Message::KeepAlive(_) => {
                let answer = KeepAliveAnswer { table_revision: self.handle.epoch().0 };
                self.answer(request, answer.into()).await
            }
            Message::ClientCommand(command) => {
                self.command(request, command);
                Ok(())
            }
            Message::Get(get) => {
                self.feed.get_or_insert_with(|| self.handle.subscribe());
                self.get(self.envelope(request), get.meeting, false);
                Ok(())
            }
            Message::List(list) => {
                let (envelope, handle) = (self.envelope(request), self.handle.clone());
                self.in_flight.push(Box::pin(async move {
                    Done::Answer(match views::list(&handle, list.after, list.entries_max).await {
                        Ok(messages) => envelope.answer(messages),
                        Err(error) => envelope.failure(&error),
                    })
                }));
                Ok(())
            }
            Message::Subscribe(subscribe) => self.subscribe(request, subscribe.meeting).await,
            Message::Goodbye(_) => Err(Over),
            // Answers to keep-alives that this side did not ask, and the like: nothing to do.
            _ if packet.header.flags.has(Flags::ANSWER) => Ok(()),
            Message::Hello(_) => {
                let failure = Failure::new(ErrorCode::EXISTS, "the handshake is done");
                self.answer(request, failure.into()).await
            }
            other => {
                self.handle.count("client_requests_unsupported");
                tracing::warn!(peer = %self.peer, "a client's request is not for a scheduler: {}", other.name());
                let failure = Failure::new(ErrorCode::UNSUPPORTED, &format!("{} is not for a scheduler", other.name()));
                self.answer(request, failure.into()).await
            }
        }
    }

    /// A command whose server does not answer goes on; its client is told so in time, and asks again with the
    /// same id: it gets the one answer (SPEC K-4).
    fn command(&self, request: u64, command: ClientCommand) {
        let rights = Rights { control: self.may(Right::Control), operator: self.may(Right::Operator) };
        let (envelope, handle) = (self.envelope(request), self.handle.clone());
        let (visitor, name) = (self.visitor(), command.op.name());
        let deadline = self.config.clients.command_deadline * 2;
        let late = ClientAnswer {
            instance: command.instance,
            number: command.number,
            code: ErrorCode::NOT_DURABLE,
            retry_after_ms: 1_000,
            detail: Text::cut("the meeting's server has not answered yet: ask again with the same id"),
            meeting: command.meeting,
        };
        self.in_flight.push(Box::pin(async move {
            Done::Answer(match tokio::time::timeout(deadline, handle.command(rights, command)).await {
                Ok(Ok(answer)) => {
                    if answer.code == ErrorCode::NOT_ALLOWED {
                        visitor.denied(name);
                    }
                    envelope.answer(vec![answer.into()])
                }
                Ok(Err(gone)) => envelope.failure(&Unavailable(gone.to_string())),
                Err(_) => envelope.answer(vec![late.into()]),
            })
        }));
    }

    fn visitor(&self) -> Visitor {
        let client = self.client.as_ref().map_or(0, |client| client.id);
        Visitor { peer: self.peer, client, handle: self.handle.clone() }
    }

    fn get(&mut self, envelope: Envelope, meeting_id: MeetingId, update: bool) {
        self.gets += 1;
        self.in_flight.push(Box::pin(meeting(envelope, self.handle.clone(), meeting_id, update)));
    }

    fn got(&mut self) {
        self.gets = self.gets.saturating_sub(1);
        if self.gets == 0 {
            self.refreshed.clear();
        }
    }

    async fn finish(&mut self, done: Done) -> Result<(), Over> {
        match done {
            Done::Answer(packets) => self.send(packets).await,
            Done::NoMeeting(packets) => {
                self.got();
                self.rest();
                self.send(packets).await
            }
            Done::Meeting { packets, meeting, request, recovering } => {
                self.send(packets).await?;
                if recovering && self.refreshed.contains(&meeting) {
                    // Recovered while it was read: the promised update comes at once.
                    self.get(self.envelope(request), meeting, true);
                } else if recovering && self.promised.len() < PROMISES {
                    self.promised.insert(meeting, request);
                } else {
                    self.promised.remove(&meeting);
                }
                self.got();
                self.rest();
                Ok(())
            }
        }
    }

    // ---- subscription ----

    /// A snapshot first; what happens while it is read comes after it, a second time at worst.
    async fn subscribe(&mut self, request: u64, meeting: Option<MeetingId>) -> Result<(), Over> {
        self.feed.get_or_insert_with(|| self.handle.subscribe());
        let subscription = Subscription { request, meeting, sequence: 0, _presence: self.handle.client_subscribed() };
        self.subscription = Some(subscription);
        let subscribed = Subscribed { epoch: self.handle.epoch(), sequence: 0 };
        self.snapshot(request, meeting, subscribed.into()).await
    }

    async fn snapshot(&mut self, request: u64, meeting: Option<MeetingId>, head: Message) -> Result<(), Over> {
        let envelope = self.envelope(request);
        let packets = match views::snapshot(&self.handle, meeting).await {
            Ok(pages) => envelope.answer(std::iter::once(head).chain(pages).collect()),
            Err(error) => {
                self.subscription = None;
                envelope.failure(&error)
            }
        };
        self.send(packets).await
    }

    async fn tell(&mut self, published: Result<Arc<Published>, broadcast::error::RecvError>) -> Result<(), Over> {
        let published = match published {
            Ok(published) => published,
            Err(broadcast::error::RecvError::Closed) => {
                self.feed = None;
                return Ok(());
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => return self.reset(missed).await,
        };
        self.keep_promise(&published);
        let epoch = self.handle.epoch();
        let Some(subscription) = &mut self.subscription else { return Ok(()) };
        if subscription.meeting.is_some_and(|meeting| meeting != published.leg.meeting) {
            return Ok(());
        }
        // One published change may hold more than one packet does.
        let mut runs = pack(published.changes.iter().cloned(), ClientEvent::CHANGES_ROOM);
        if runs.is_empty() {
            runs.push(Vec::new());
        }
        let mut messages = Vec::with_capacity(runs.len());
        for changes in runs {
            subscription.sequence += 1;
            messages.push(Message::from(ClientEvent {
                epoch,
                sequence: subscription.sequence,
                leg: published.leg,
                kind: published.kind,
                state: published.state,
                cause: published.cause,
                revision: published.revision,
                changes,
            }));
        }
        let request = subscription.request;
        let packets = messages.into_iter().map(|message| self.envelope(request).notice(message)).collect();
        self.send(packets).await
    }

    /// The client was too slow: it forgets what it knows, a snapshot follows (SPEC K-11).
    async fn reset(&mut self, missed: u64) -> Result<(), Over> {
        self.handle.count("subscriptions_reset");
        tracing::info!(peer = %self.peer, missed, "a slow subscriber is given a snapshot");
        // What was promised may have been among the missed: everything promised is answered again.
        for (meeting_id, request) in std::mem::take(&mut self.promised) {
            self.get(self.envelope(request), meeting_id, true);
        }
        self.begin_anew().await
    }

    /// A subscriber forgets what it knows and is given a snapshot: it has missed something, or a term has begun
    /// since it subscribed at a standby, whose snapshot lacks what the holder before did since.
    async fn begin_anew(&mut self) -> Result<(), Over> {
        let epoch = self.handle.epoch();
        let Some(subscription) = &mut self.subscription else { return Ok(()) };
        let reset = Reset { epoch, sequence: subscription.sequence };
        let (request, meeting) = (subscription.request, subscription.meeting);
        self.snapshot(request, meeting, reset.into()).await
    }

    /// The update that an answer marked `recovering` promised (SPEC K-7).
    fn keep_promise(&mut self, published: &Published) {
        // A start that a restart had cut off ends with `Started`, and needs no back-fill.
        if !matches!(published.kind, EventKind::Refreshed | EventKind::Ended | EventKind::Started) {
            return;
        }
        if self.gets > 0 {
            self.refreshed.insert(published.leg.meeting);
        }
        if let Some(request) = self.promised.remove(&published.leg.meeting) {
            self.get(self.envelope(request), published.leg.meeting, true);
        }
    }

    /// Nobody waits for events any more: they are not followed.
    fn rest(&mut self) {
        if self.subscription.is_none() && self.promised.is_empty() && self.in_flight.is_empty() {
            self.feed = None;
        }
    }

    // ---- packets ----

    fn domain(&self) -> DomainId {
        self.config.scheduler.domain
    }

    fn envelope(&self, request: u64) -> Envelope {
        Envelope {
            source: Address::scheduler(self.domain()),
            destination: Address::client(self.client.as_ref().map_or(0, |client| client.id)),
            request,
        }
    }

    async fn answer(&mut self, request: u64, message: Message) -> Result<(), Over> {
        self.send(self.envelope(request).answer(vec![message])).await
    }

    async fn send(&mut self, packets: Vec<Packet>) -> Result<(), Over> {
        match tokio::time::timeout(SEND_DEADLINE, self.outbox.send(packets)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Over),
            Err(_) => {
                self.handle.count("clients_too_slow");
                tracing::warn!(peer = %self.peer, "a client took nothing for {SEND_DEADLINE:?}: its connection is closed");
                Err(Over)
            }
        }
    }

    async fn goodbye(&mut self) {
        let goodbye = Goodbye {
            code: ErrorCode::OK,
            detail: Text::cut("the scheduler stops; meetings go on"),
            retry_after_ms: RETRY_AFTER_MS,
        };
        // Who left already needs no farewell.
        let _ = self.send(vec![self.envelope(0).notice(goodbye.into())]).await;
    }
}

/// Who asks, for the log.
struct Visitor {
    peer: SocketAddr,
    client: u32,
    handle: Handle,
}

impl Visitor {
    /// It asked for more than its rights allow (rule 16).
    fn denied(&self, what: &str) {
        self.handle.count("client_requests_not_allowed");
        tracing::warn!(peer = %self.peer, client = self.client, "{what} was refused: the client's rights do not cover it");
    }
}

/// Reads a meeting for a client.
async fn meeting(envelope: Envelope, handle: Handle, meeting: MeetingId, update: bool) -> Done {
    match views::meeting(&handle, meeting, update).await {
        Ok(Some((messages, recovering))) => {
            Done::Meeting { packets: envelope.answer(messages), meeting, request: envelope.request, recovering }
        }
        Ok(None) => {
            let failure = Failure::new(ErrorCode::UNKNOWN_MEETING, "no such meeting");
            Done::NoMeeting(envelope.answer(vec![failure.into()]))
        }
        Err(error) => Done::NoMeeting(envelope.failure(&error)),
    }
}

async fn next_published(
    feed: &mut Option<broadcast::Receiver<Arc<Published>>>,
) -> Result<Arc<Published>, broadcast::error::RecvError> {
    match feed {
        Some(feed) => feed.recv().await,
        None => std::future::pending().await,
    }
}

/// Makes packets for one request.
#[derive(Debug, Clone, Copy)]
struct Envelope {
    source: Address,
    destination: Address,
    request: u64,
}

impl Envelope {
    /// An answer of one or more packets: indices from 0, the last one marked.
    fn answer(self, messages: Vec<Message>) -> Vec<Packet> {
        let last = messages.len().saturating_sub(1);
        let index = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        messages
            .into_iter()
            .enumerate()
            .map(|(place, message)| {
                let flags = if place == last { Flags::FINAL_ANSWER } else { Flags::ANSWER };
                self.packet(Header { flags, session: 0, request: self.request, index: index(place) }, message)
            })
            .collect()
    }

    fn failure(self, error: &Unavailable) -> Vec<Packet> {
        let failure = Failure { retry_after_ms: 500, ..Failure::new(ErrorCode::UNAVAILABLE, &error.0) };
        self.answer(vec![failure.into()])
    }

    /// A packet that answers nothing by itself, under the subscription's request.
    fn notice(self, message: Message) -> Packet {
        self.packet(Header { request: self.request, ..Header::default() }, message)
    }

    fn packet(self, header: Header, message: Message) -> Packet {
        Packet { destination: self.destination, source: self.source, header, message }
    }
}
