//! A small raw client of the server's side of the protocol, independent of the daemon's own session code:
//! what it sends and what it expects is written out here.

#![allow(clippy::unwrap_used, clippy::panic)]

use futures_util::{SinkExt, StreamExt};
use remeet::simulator::persistence::StateError;
use remeet::simulator::{Error, Options, Running, Simulator};
use remeet_protocol::message::*;
use remeet_protocol::packet::{Flags, Header, Packet, VERSION};
use remeet_protocol::proof::{Claim, prove};
use remeet_protocol::record::{Change, LegRow, Mark, Number};
use remeet_protocol::wire::Text;
use remeet_protocol::*;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// What came without being asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Notice {
    Event(Event),
    Gap(EventGap),
    Goodbye(ErrorCode),
}

/// One connection of a scheduler.
pub(crate) struct Scheduler {
    framed: Framed<TcpStream, PacketCodec>,
    pub(crate) boot: BootId,
    pub(crate) token: Token,
    pub(crate) session: u64,
    pub(crate) request: u64,
    pub(crate) notices: VecDeque<Notice>,
}

pub(crate) fn token(epoch: u64, holder: u8) -> Token {
    Token { epoch: Epoch(epoch), holder: Holder::from_bytes([holder; 16]) }
}

pub(crate) fn leg(n: u16) -> LegId {
    let mut bytes = [0x11; 16];
    bytes[14..].copy_from_slice(&n.to_be_bytes());
    LegId { meeting: MeetingId::from_bytes(bytes), leg: 0 }
}

pub(crate) fn secret(n: u8) -> Secret {
    Secret::new([n; 16])
}

pub(crate) fn terminal(n: u16) -> Number {
    Text::cut(&format!("80{n:04}"))
}

pub(crate) fn hello(version_min: u8, version_max: u8, role: Role, id: u32) -> Hello {
    Hello { role, id, name: Text::cut("test"), instance: Holder::from_bytes([9; 16]), version_min, version_max }
}

pub(crate) fn start(secret: Secret) -> Op {
    let row = LegRow {
        number: Text::cut("7001"),
        title: Text::cut("Weekly meeting"),
        creator: terminal(1),
        creator_name: Text::cut("Somebody"),
        chair: Number::default(),
        first_speaker: Number::default(),
        second_speaker: Number::default(),
        started_at_ms: 0,
    };
    Op::Start(Start { secret, generation: 1, row })
}

pub(crate) fn add(n: u16) -> Op {
    Op::AddTerminal(AddTerminal { number: terminal(n), home_domain: DomainId(1), name: Text::cut("Room") })
}

pub(crate) async fn simulator() -> Running {
    simulator_with(Options::default()).await
}

pub(crate) async fn simulator_with(options: Options) -> Running {
    let options = Options { seed: Some(options.seed.unwrap_or(42)), ..options };
    let begun = std::time::Instant::now();
    loop {
        match Simulator::spawn(options.clone()).await {
            // A child that another test has just forked holds every open file until it becomes its program.
            Err(Error::State(StateError::InUse(_))) if begun.elapsed() < DEADLINE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            spawned => return spawned.unwrap(),
        }
    }
}

/// Waits for a condition, asking every 5 ms.
pub(crate) async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("the condition in time");
}

impl Scheduler {
    /// Connects without a word.
    pub(crate) async fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let framed = Framed::with_capacity(stream, PacketCodec::stream(), 64 * 1024);
        Self {
            framed,
            boot: BootId::default(),
            token: Token::default(),
            session: 0,
            request: 0,
            notices: VecDeque::new(),
        }
    }

    /// Connects and shakes hands.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut scheduler = Self::dial(address).await;
        let answer = scheduler.one(hello(VERSION, VERSION, Role::Scheduler, 1)).await;
        let Message::Welcome(welcome) = answer else { panic!("{answer:?}") };
        scheduler.boot = welcome.boot;
        scheduler
    }

    /// Connects, shakes hands and attaches.
    pub(crate) async fn attached(address: SocketAddr, token: Token) -> Self {
        let mut scheduler = Self::connect(address).await;
        scheduler.attach(token).await.unwrap();
        scheduler
    }

    pub(crate) async fn attach(&mut self, token: Token) -> Result<Attached, Failure> {
        self.session = 0;
        match self.one(Attach { token }).await {
            Message::Attached(attached) => {
                (self.session, self.boot, self.token) = (attached.session, attached.boot, token);
                Ok(attached)
            }
            Message::Failure(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, header: Header, message: Message) {
        let (destination, source) = (Address::server(ServerId(1)), Address::scheduler(DomainId(1)));
        self.framed.send(Packet { destination, source, header, message }).await.unwrap();
    }

    /// Like [`Scheduler::send`], but leaves it in the buffer.
    pub(crate) async fn feed(&mut self, header: Header, message: Message) {
        let (destination, source) = (Address::server(ServerId(1)), Address::scheduler(DomainId(1)));
        self.framed.feed(Packet { destination, source, header, message }).await.unwrap();
    }

    /// The same, for a peer that may be cut: none at the connection's end.
    pub(crate) async fn feed_or_end(&mut self, header: Header, message: Message) -> Option<()> {
        let (destination, source) = (Address::server(ServerId(1)), Address::scheduler(DomainId(1)));
        self.framed.feed(Packet { destination, source, header, message }).await.ok()
    }

    pub(crate) async fn flush(&mut self) {
        SinkExt::<Packet>::flush(&mut self.framed).await.unwrap();
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        use tokio::io::AsyncWriteExt;
        self.framed.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next packet, or none at the connection's end.
    pub(crate) async fn packet(&mut self) -> Option<Result<Incoming, CodecError>> {
        tokio::time::timeout(DEADLINE, self.framed.next()).await.expect("a packet in time")
    }

    pub(crate) async fn closed(&mut self) -> bool {
        loop {
            match self.packet().await {
                None | Some(Err(_)) => return true,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Sends a request and waits for its whole answer. What was not asked for is kept apart.
    pub(crate) async fn ask(&mut self, message: impl Into<Message>) -> Vec<Message> {
        self.request += 1;
        self.ask_as(self.request, message).await
    }

    /// The same, under a request id of the caller's choice.
    pub(crate) async fn ask_as(&mut self, request: u64, message: impl Into<Message>) -> Vec<Message> {
        let header = Header { session: self.session, request, ..Header::default() };
        self.send(header, message.into()).await;
        let mut answer = Vec::new();
        loop {
            let packet = self.packet().await.expect("an answer").expect("a whole frame").expect("a readable body");
            if !packet.header.flags.has(Flags::ANSWER) {
                self.note(packet.message);
                continue;
            }
            if packet.header.request != request {
                continue; // The late answer of an earlier request.
            }
            assert_eq!(packet.header.index as usize, answer.len(), "no gap in an answer");
            answer.push(packet.message);
            if packet.header.flags.has(Flags::LAST) {
                return answer;
            }
        }
    }

    fn note(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.notices.push_back(Notice::Event(event)),
            Message::EventGap(gap) => self.notices.push_back(Notice::Gap(gap)),
            Message::Goodbye(goodbye) => self.notices.push_back(Notice::Goodbye(goodbye.code)),
            _ => {}
        }
    }

    pub(crate) async fn one(&mut self, message: impl Into<Message>) -> Message {
        let mut answer = self.ask(message).await;
        assert_eq!(answer.len(), 1, "{answer:?}");
        answer.remove(0)
    }

    pub(crate) async fn failure(&mut self, message: impl Into<Message>) -> Failure {
        match self.one(message).await {
            Message::Failure(failure) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    /// The next event or gap.
    pub(crate) async fn notice(&mut self) -> Notice {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return notice;
            }
            let packet = self.packet().await.expect("a notice").unwrap().unwrap();
            self.note(packet.message);
        }
    }

    pub(crate) async fn event(&mut self) -> Event {
        match self.notice().await {
            Notice::Event(event) => event,
            other => panic!("expected an event, got {other:?}"),
        }
    }

    /// Acknowledges every event that waits.
    pub(crate) async fn drain_events(&mut self) {
        while let Ok(event) = tokio::time::timeout(Duration::from_millis(300), self.event()).await {
            let header = Header { session: self.session, ..Header::default() };
            self.send(header, EventAck { number: event.number }.into()).await;
        }
    }

    pub(crate) async fn acknowledge(&mut self, number: u64) {
        let header = Header { session: self.session, ..Header::default() };
        self.send(header, EventAck { number }.into()).await;
        // An acknowledgement has no answer: one that has comes after it.
        self.one(KeepAlive {}).await;
    }

    pub(crate) async fn command(&mut self, leg: LegId, intent: u64, op: Op) -> CommandAnswer {
        match self.one(Command { leg, handle: Handle(0), intent, op }).await {
            Message::CommandAnswer(answer) => answer,
            other => panic!("expected a command's answer, got {other:?}"),
        }
    }

    /// Starts a leg with `terminals` terminals; answers its handle, and forgets the events.
    pub(crate) async fn meeting(&mut self, n: u16, terminals: u16) -> Handle {
        let answer = self.command(leg(n), 1, start(secret(1))).await;
        assert_eq!(answer.code, ErrorCode::OK, "{answer:?}");
        for place in 1..=terminals {
            let answer = self.command(leg(n), u64::from(place) + 1, add(place)).await;
            assert_eq!(answer.code, ErrorCode::OK, "{answer:?}");
        }
        let last = self.notices.iter().rev().find_map(|notice| match notice {
            Notice::Event(event) => Some(event.number),
            _ => None,
        });
        self.acknowledge(last.unwrap()).await;
        self.notices.clear();
        answer.handle
    }

    pub(crate) fn claim(&self, leg: LegId, handle: Handle, secret: &Secret) -> TakeoverClaim {
        let claim = Claim { server: ServerId(1), boot: self.boot, handle, leg, token: self.token };
        TakeoverClaim { handle, leg, proof: prove(secret, &claim) }
    }

    pub(crate) async fn take_over(&mut self, claims: Vec<TakeoverClaim>) -> Vec<TakeoverResult> {
        match self.one(Takeover { claims }).await {
            Message::TakeoverAnswer(answer) => answer.results,
            other => panic!("expected a takeover's answer, got {other:?}"),
        }
    }

    pub(crate) async fn take_over_one(&mut self, leg: LegId, handle: Handle, secret: &Secret) -> TakeoverResult {
        let claim = self.claim(leg, handle, secret);
        self.take_over(vec![claim]).await.remove(0)
    }

    pub(crate) async fn page(&mut self, query: Query) -> (Vec<InventoryEntry>, InventoryEnd) {
        let mut answer = self.ask(query).await;
        let Some(Message::InventoryEnd(end)) = answer.pop() else { panic!("no end") };
        let entries: Vec<_> = answer
            .into_iter()
            .flat_map(|message| match message {
                Message::InventoryPage(page) => page.entries,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(entries.len(), end.page_entries as usize);
        (entries, end)
    }

    pub(crate) async fn inventory(&mut self) -> (Vec<InventoryEntry>, InventoryEnd) {
        let (mut entries, mut end) = self.page(Query { cut: 0, after: 0, packets_max: 256 }).await;
        while !end.complete {
            let (more, next) = self.page(Query { cut: end.cut, after: end.after, packets_max: 256 }).await;
            entries.extend(more);
            end = next;
        }
        (entries, end)
    }

    /// A whole pull, in pages of `packets_max`.
    pub(crate) async fn pull(&mut self, n: u16, handle: Handle, since: u64, packets_max: u16) -> Pulled {
        let mut ask = Pull { handle, leg: leg(n), since, upto: 0, after: since, full: false, packets_max };
        let mut changes = Vec::new();
        let mut pages = 0;
        loop {
            let mut answer = self.ask(ask.clone()).await;
            let end = match answer.pop() {
                Some(Message::PullEnd(end)) => end,
                other => panic!("{other:?}"),
            };
            let before = changes.len();
            for message in answer {
                let Message::PullPage(page) = message else { panic!("{message:?}") };
                changes.extend(page.changes);
            }
            assert_eq!(changes.len() - before, end.page_changes as usize);
            pages += 1;
            if end.complete {
                return Pulled { full: end.full, changes, mark: end.upto, pages };
            }
            ask = Pull { upto: end.upto.revision, after: end.after, full: end.full, ..ask };
        }
    }
}

/// What a pull gave.
pub(crate) struct Pulled {
    pub(crate) full: bool,
    pub(crate) changes: Vec<Change>,
    pub(crate) mark: Mark,
    pub(crate) pages: u32,
}
