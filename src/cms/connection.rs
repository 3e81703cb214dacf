//! One client's connection: handshake, identity and rights (rule 16), requests, subscription.

use super::envelope::Envelope;
use super::promises::{Began, Promises};
use super::pulse::{Due, Pulse};
use super::snapshot::{Snapshot, Source};
use super::views::{self, Page, Unavailable};
use crate::config::{Client, Config, Right};
use crate::link::{ListenCounters, Outbox};
use crate::recovery::{Published, Rights};
use crate::scheduler::{Handle, Presence};
use remeet_protocol::message::{
    ClientAnswer, ClientCommand, ClientEvent, EndCause, EventKind, Failure, Goodbye, Hello, KeepAlive, KeepAliveAnswer,
    Reset, Role, Subscribed, Welcome,
};
use remeet_protocol::packet::VERSION;
use remeet_protocol::wire::{Text, pack};
use remeet_protocol::{Address, BootId, DomainId, ErrorCode, Flags, Incoming, MeetingId, Message, Packet};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Requests of one client under way; more wait in its socket. Twice what the client library sends.
const IN_FLIGHT: usize = 256;
/// Packets of one client that wait for room among those; a client that sends more without waiting for its
/// answers is cut.
const BACKLOG: usize = 4_096;
/// A client that takes nothing for this long is given up; its link cuts it at about the same time.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// What a client that must come back is told to wait.
const RETRY_AFTER_MS: u32 = 200;

/// What all connections share.
pub(super) struct Hall {
    pub config: Arc<Config>,
    pub handle: Handle,
    pub stop: CancellationToken,
    pub counters: Arc<ListenCounters>,
    /// From the connection to its `Hello` (SPEC H-1).
    pub handshake_deadline: Duration,
    /// Turns to read a page of a snapshot.
    pub turns: Arc<Semaphore>,
}

/// One client.
pub(super) struct Connection {
    peer: SocketAddr,
    outbox: Outbox,
    close: CancellationToken,
    hall: Arc<Hall>,
    client: Option<Client>,
    _presence: Option<Presence>,
    hello_by: Instant,
    pulse: Pulse,
    /// Number of this side's last request.
    asked: u64,
    /// Tasks of their own: what they hold of the store is let go of however slowly the client reads.
    in_flight: JoinSet<Done>,
    feed: Option<broadcast::Receiver<Arc<Published>>>,
    subscription: Option<Subscription>,
    /// Of the subscription; events wait in the feed until it is sent.
    snapshot: Option<Snapshot>,
    promises: Promises,
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
        began: Began,
        recovering: bool,
        /// It is the one that was promised.
        update: bool,
    },
    /// A get's failure.
    NoMeeting(Vec<Packet>),
}

/// The connection is over.
struct Over;

impl Connection {
    /// `since`: when it was accepted.
    pub(super) fn new(
        peer: SocketAddr,
        outbox: Outbox,
        close: CancellationToken,
        since: Instant,
        hall: Arc<Hall>,
    ) -> Self {
        let hello_by = since + hall.handshake_deadline;
        let pulse = Pulse::new(hall.config.link.keep_alive, Instant::now());
        Self {
            peer,
            outbox,
            close,
            hall,
            client: None,
            _presence: None,
            hello_by,
            pulse,
            asked: 0,
            in_flight: JoinSet::new(),
            feed: None,
            subscription: None,
            snapshot: None,
            promises: Promises::default(),
            backlog: VecDeque::new(),
        }
    }

    /// Serves the client until it leaves, falls silent, misbehaves or the scheduler stops.
    pub(super) async fn run(mut self, mut packets: mpsc::Receiver<Vec<Incoming>>) {
        let stop = self.hall.stop.clone();
        let mut terms = self.hall.handle.terms();
        loop {
            let wake = self.wake();
            let next = tokio::select! {
                () = stop.cancelled() => {
                    self.goodbye().await;
                    Err(Over)
                }
                batch = packets.recv() => match batch {
                    Some(batch) => self.take(batch).await,
                    None => Err(Over),
                },
                Some(done) = self.in_flight.join_next() => match done {
                    Ok(done) => self.finish(done).await,
                    Err(error) => {
                        tracing::error!(peer = %self.peer, %error, "a client's request failed: its connection is closed");
                        Err(Over)
                    }
                },
                page = Snapshot::page(&mut self.snapshot) => self.show(page).await,
                published = next_published(&mut self.feed), if self.snapshot.is_none() => self.tell(published).await,
                Ok(()) = terms.changed(), if self.snapshot.is_none() => self.begin_anew().await,
                () = sleep_until(wake) => self.overdue(!packets.is_empty()).await,
            };
            if next.is_err() || self.serve().await.is_err() {
                break;
            }
        }
        self.close.cancel();
    }

    async fn take(&mut self, batch: Vec<Incoming>) -> Result<(), Over> {
        self.pulse.heard(Instant::now());
        self.backlog.extend(batch);
        self.serve().await?;
        if self.backlog.len() > BACKLOG {
            self.hall.handle.count("clients_cut");
            tracing::warn!(peer = %self.peer, "a client sends without waiting for its answers: it is cut");
            return Err(Over);
        }
        Ok(())
    }

    /// Takes on what waits, as far as there is room.
    async fn serve(&mut self) -> Result<(), Over> {
        while self.in_flight.len() < IN_FLIGHT {
            if let Some((meeting, request)) = self.promises.next() {
                self.get(self.envelope(request), meeting, true);
                continue;
            }
            match self.backlog.pop_front() {
                None => break,
                Some(Ok(packet)) if self.client.is_none() => self.greet(packet).await?,
                Some(Ok(packet)) => self.request(packet).await?,
                Some(Err(rejected)) => {
                    self.hall.handle.count("client_packets_malformed");
                    tracing::warn!(peer = %self.peer, "a client's packet cannot be read: {rejected}");
                    let failure = Failure::new(rejected.code(), &rejected.to_string());
                    self.answer(rejected.head.header.request, failure.into()).await?;
                }
            }
        }
        Ok(())
    }

    // ---- silence ----

    fn wake(&self) -> Instant {
        if self.client.is_none() { self.hello_by } else { self.pulse.wake() }
    }

    /// Somebody without a `Hello` is late (SPEC H-1), or somebody is silent (H-6). `unread`: packets are there.
    async fn overdue(&mut self, unread: bool) -> Result<(), Over> {
        let now = Instant::now();
        let Some(client) = &self.client else {
            self.hall.counters.silent.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(peer = %self.peer, "a client did not say Hello in time: its connection is closed");
            return Err(Over);
        };
        if unread {
            self.pulse.heard(now);
        }
        match self.pulse.due(now) {
            Due::Nothing => Ok(()),
            Due::Probe => {
                self.asked += 1;
                self.send(vec![self.envelope(self.asked).request(KeepAlive {}.into())]).await
            }
            Due::End => {
                self.hall.counters.silent.fetch_add(1, Ordering::Relaxed);
                let (peer, silence) = (self.peer, self.pulse.silence_max());
                tracing::warn!(%peer, client = client.id, "a client was silent for {silence:?}: its connection is closed");
                Err(Over)
            }
        }
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
        self._presence = Some(self.hall.handle.client_connected());
        self.pulse = Pulse::new(self.hall.config.link.keep_alive, Instant::now());
        self.answer(request, self.welcome().into()).await
    }

    fn welcome(&self) -> Welcome {
        let config = &self.hall.config;
        Welcome {
            role: Role::Scheduler,
            version: VERSION,
            domain: self.domain(),
            // Only servers have one.
            id: 0,
            name: Text::cut(&config.scheduler.name),
            boot: BootId(self.hall.handle.holder().0),
            table_revision: self.hall.handle.epoch().0,
            keep_alive_ms: u32::try_from(config.link.keep_alive.as_millis()).unwrap_or(u32::MAX),
        }
    }

    fn identify(&self, hello: &Hello) -> Option<Client> {
        self.hall.config.identities.iter().find(|client| declares(hello, client)).cloned()
    }

    async fn refuse(&mut self, request: u64, code: ErrorCode, detail: &str) -> Result<(), Over> {
        self.hall.handle.count("clients_refused");
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
                let answer = KeepAliveAnswer { table_revision: self.hall.handle.epoch().0 };
                self.answer(request, answer.into()).await
            }
            Message::ClientCommand(command) => {
                self.command(request, command);
                Ok(())
            }
            Message::Get(get) => {
                self.feed.get_or_insert_with(|| self.hall.handle.subscribe());
                self.get(self.envelope(request), get.meeting, false);
                Ok(())
            }
            Message::List(list) => {
                let (envelope, handle) = (self.envelope(request), self.hall.handle.clone());
                self.in_flight.spawn(async move {
                    Done::Answer(match views::list(&handle, list.after, list.entries_max).await {
                        Ok(messages) => envelope.answer(messages),
                        Err(error) => envelope.failure(&error),
                    })
                });
                Ok(())
            }
            Message::Subscribe(subscribe) => self.subscribe(request, subscribe.meeting).await,
            Message::Goodbye(_) => Err(Over),
            // Answers to keep-alives that this side did not ask, and the like: nothing to do.
            _ if packet.header.flags.has(Flags::ANSWER) => Ok(()),
            // The same again changes nothing (SPEC H-8).
            Message::Hello(hello) if self.client.as_ref().is_some_and(|client| declares(&hello, client)) => {
                self.answer(request, self.welcome().into()).await
            }
            Message::Hello(_) => {
                let failure = Failure::new(ErrorCode::EXISTS, "this connection is another client's");
                self.answer(request, failure.into()).await
            }
            other => {
                self.hall.handle.count("client_requests_unsupported");
                tracing::warn!(peer = %self.peer, "a client's request is not for a scheduler: {}", other.name());
                let failure = Failure::new(ErrorCode::UNSUPPORTED, &format!("{} is not for a scheduler", other.name()));
                self.answer(request, failure.into()).await
            }
        }
    }

    /// A command whose server does not answer goes on; its client is told so in time, and asks again with the
    /// same id: it gets the one answer (SPEC K-4).
    fn command(&mut self, request: u64, command: ClientCommand) {
        let rights = Rights { control: self.may(Right::Control), operator: self.may(Right::Operator) };
        let (envelope, handle) = (self.envelope(request), self.hall.handle.clone());
        let (visitor, name) = (self.visitor(), command.op.name());
        let deadline = self.hall.config.clients.command_deadline * 2;
        let late = ClientAnswer {
            instance: command.instance,
            number: command.number,
            code: ErrorCode::NOT_DURABLE,
            retry_after_ms: 1_000,
            detail: Text::cut("the meeting's server has not answered yet: ask again with the same id"),
            meeting: command.meeting,
        };
        self.in_flight.spawn(async move {
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
        });
    }

    fn visitor(&self) -> Visitor {
        let client = self.client.as_ref().map_or(0, |client| client.id);
        Visitor { peer: self.peer, client, handle: self.hall.handle.clone() }
    }

    fn get(&mut self, envelope: Envelope, meeting_id: MeetingId, update: bool) {
        let began = self.promises.begin();
        self.in_flight.spawn(meeting(envelope, self.hall.handle.clone(), meeting_id, began, update));
    }

    async fn finish(&mut self, done: Done) -> Result<(), Over> {
        match done {
            Done::Answer(packets) => self.send(packets).await,
            Done::NoMeeting(packets) => {
                self.promises.answered();
                self.rest();
                self.send(packets).await
            }
            Done::Meeting { packets, meeting, request, began, recovering, update } => {
                // One of several legs stands again: the promise is of all.
                if !(update && recovering) {
                    self.send(packets).await?;
                }
                if recovering {
                    self.promises.recovering(began, meeting, request, update);
                } else {
                    self.promises.answered();
                }
                self.rest();
                Ok(())
            }
        }
    }

    // ---- subscription ----

    /// A snapshot first; what happens while it is read comes after it, a second time at worst.
    async fn subscribe(&mut self, request: u64, meeting: Option<MeetingId>) -> Result<(), Over> {
        self.feed.get_or_insert_with(|| self.hall.handle.subscribe());
        let subscription =
            Subscription { request, meeting, sequence: 0, _presence: self.hall.handle.client_subscribed() };
        self.subscription = Some(subscription);
        let subscribed = Subscribed { epoch: self.hall.handle.epoch(), sequence: 0 };
        self.snapshot = Some(Snapshot::begin(self.source(meeting), true, 1));
        self.send(self.envelope(request).part(vec![subscribed.into()], 0, false)).await
    }

    fn source(&self, meeting: Option<MeetingId>) -> Source {
        Source { handle: self.hall.handle.clone(), turns: Arc::clone(&self.hall.turns), meeting }
    }

    /// A page of the snapshot has been read.
    async fn show(&mut self, page: Result<Page, Unavailable>) -> Result<(), Over> {
        let (Some(snapshot), Some(subscription)) = (self.snapshot.take(), &self.subscription) else { return Ok(()) };
        let envelope = self.envelope(subscription.request);
        match page {
            Ok(page) => {
                let (packets, rest) = snapshot.take(page, envelope);
                self.snapshot = rest;
                self.send(packets).await
            }
            Err(error) => {
                self.subscription = None;
                self.rest();
                self.send(envelope.failure(&error)).await
            }
        }
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
        let epoch = self.hall.handle.epoch();
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
        let envelope = self.envelope(0);
        self.send(messages.into_iter().map(|message| envelope.notice(message)).collect()).await
    }

    /// The client was too slow: it forgets what it knows, a snapshot follows (SPEC K-11).
    async fn reset(&mut self, missed: u64) -> Result<(), Over> {
        self.hall.handle.count("subscriptions_reset");
        tracing::info!(peer = %self.peer, missed, "a slow subscriber is given a snapshot");
        self.promises.lost();
        self.begin_anew().await
    }

    /// A subscriber forgets what it knows and is given a snapshot: it has missed something, or a term has begun
    /// since it subscribed at a standby, whose snapshot lacks what the holder before did since.
    async fn begin_anew(&mut self) -> Result<(), Over> {
        let epoch = self.hall.handle.epoch();
        let Some(subscription) = &mut self.subscription else { return Ok(()) };
        let reset = Reset { epoch, sequence: subscription.sequence };
        let meeting = subscription.meeting;
        self.snapshot = Some(Snapshot::begin(self.source(meeting), false, 0));
        self.send(vec![self.envelope(0).notice(reset.into())]).await
    }

    /// The update that an answer marked `recovering` promised (SPEC K-7).
    fn keep_promise(&mut self, published: &Published) {
        // A start that a restart had cut off ends with `Started`, and needs no back-fill; the last of several legs that
        // was recovering may have ended instead.
        let stands = match published.kind {
            EventKind::Refreshed | EventKind::Ended | EventKind::Started => true,
            EventKind::State => published.cause != EndCause::None,
            _ => false,
        };
        if stands {
            self.promises.stands(published.leg.meeting);
        }
    }

    /// Nobody waits for events any more: they are not followed.
    fn rest(&mut self) {
        if self.subscription.is_none() && self.promises.is_idle() {
            self.feed = None;
        }
    }

    // ---- packets ----

    fn domain(&self) -> DomainId {
        self.hall.config.scheduler.domain
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
            Ok(Ok(())) => {
                self.pulse.sent(Instant::now());
                Ok(())
            }
            Ok(Err(_)) => Err(Over),
            Err(_) => {
                self.hall.handle.count("clients_too_slow");
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

/// Whether it is this client that says Hello (rule 16).
fn declares(hello: &Hello, client: &Client) -> bool {
    hello.role == Role::Client && client.id == hello.id && client.name == hello.name.as_str()
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
async fn meeting(envelope: Envelope, handle: Handle, meeting: MeetingId, began: Began, update: bool) -> Done {
    match views::meeting(&handle, meeting, update).await {
        Ok(Some((messages, recovering))) => {
            let (packets, request) = (envelope.answer(messages), envelope.request);
            Done::Meeting { packets, meeting, request, began, recovering, update }
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
