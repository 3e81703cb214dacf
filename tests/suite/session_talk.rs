//! A session and the test in the server's place, word by word: shared by the `session_*` tests.

#![allow(clippy::unwrap_used)]

use remeet::model::Moment;
use remeet::session::{Heard, Identity, Request, RequestError, Session, Settings, Ticket};
use remeet_protocol::message::*;
use remeet_protocol::packet::Header;
use remeet_protocol::record::{Mark, Number, Record, RecordState, TerminalRow};
use remeet_protocol::wire::Text;
use remeet_protocol::*;
use std::time::Duration;

pub(crate) const SESSION: u64 = 77;
pub(crate) const SERVER: ServerId = ServerId(3);

pub(crate) struct Talk {
    pub(crate) session: Session,
    pub(crate) now: Moment,
    tickets: u64,
}

impl Talk {
    pub(crate) fn new(settings: Settings) -> Self {
        let identity = Identity {
            domain: DomainId(1),
            name: "scheduler".into(),
            holder: Holder::from_bytes([5; 16]),
            server: SERVER,
        };
        Self { session: Session::new(identity, settings), now: Moment(0), tickets: 0 }
    }

    /// After the handshake.
    pub(crate) fn up(settings: Settings) -> Self {
        let mut talk = Self::new(settings);
        talk.connect();
        talk
    }

    /// After the attach.
    pub(crate) fn attached(settings: Settings) -> Self {
        let mut talk = Self::up(settings);
        talk.attach();
        talk
    }

    pub(crate) fn connect(&mut self) {
        self.session.connected(self.now);
        let hello = self.only();
        assert!(matches!(hello.message, Message::Hello(_)));
        self.answer(&hello, welcome());
        assert!(matches!(self.heard()[..], [Heard::Up { .. }]));
        assert!(self.session.is_up());
    }

    pub(crate) fn attach(&mut self) {
        let ticket = self.ask(Request::Attach(token(1)));
        let request = self.only();
        self.answer(&request, attached());
        let heard = self.heard();
        assert!(matches!(&heard[..], [Heard::Attached(t, Ok(_))] if *t == ticket), "{heard:?}");
    }

    pub(crate) fn ask(&mut self, request: Request) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.session.ask(self.now, ticket, request, None);
        ticket
    }

    /// Time goes on; every timer on the way is woken.
    pub(crate) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some((due, _)) = self.session.next_wake()
            && due <= until
        {
            self.now = self.now.max(due);
            self.session.wake(self.now);
            let next = self.session.next_wake();
            assert!(next.is_none_or(|(due, _)| due > self.now), "a timer that is due after its wake: {next:?}");
        }
        self.now = until;
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.pass(Duration::from_millis(ms));
    }

    /// What the session sent, keep-alives left out.
    pub(crate) fn sent(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.session.poll_packet())
            .filter(|packet| !matches!(packet.message, Message::KeepAlive(_)))
            .collect()
    }

    /// The one packet that the session sent.
    pub(crate) fn only(&mut self) -> Packet {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:#?}");
        sent.remove(0)
    }

    pub(crate) fn heard(&mut self) -> Vec<Heard> {
        std::iter::from_fn(|| self.session.poll_heard()).collect()
    }

    pub(crate) fn answer(&mut self, request: &Packet, message: impl Into<Message>) {
        self.part(request, 0, true, message);
    }

    pub(crate) fn part(&mut self, request: &Packet, index: u32, last: bool, message: impl Into<Message>) {
        let flags = if last { Flags::FINAL_ANSWER } else { Flags::ANSWER };
        self.packet(
            Header { flags, session: 0, request: request.header.request, index, ..Header::default() },
            message.into(),
        );
    }

    pub(crate) fn refuse(&mut self, request: &Packet, code: ErrorCode, retry_after_ms: u32) {
        let failure = Failure { retry_after_ms, ..Failure::new(code, "as the test says") };
        self.answer(request, failure);
    }

    /// A notice of the attached session.
    pub(crate) fn notice(&mut self, message: impl Into<Message>) {
        self.packet(Header { session: SESSION, ..Header::default() }, message.into());
    }

    /// The server shows that it is there.
    pub(crate) fn alive(&mut self) {
        let header = Header { flags: Flags::FINAL_ANSWER, ..Header::default() };
        self.packet(header, KeepAliveAnswer { table_revision: 9 }.into());
    }

    pub(crate) fn packet(&mut self, header: Header, message: Message) {
        let packet =
            Packet { destination: Address::scheduler(DomainId(1)), source: Address::server(SERVER), header, message };
        self.session.packet(self.now, Ok(packet));
    }
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        role: Role::Server,
        version: 0x20,
        domain: DomainId(1),
        id: SERVER.0,
        name: Text::cut("server three"),
        boot: boot(),
        table_revision: 9,
        keep_alive_ms: 10_000,
    }
}

pub(crate) fn boot() -> BootId {
    BootId::from_bytes([2; 16])
}

pub(crate) fn attached() -> Attached {
    Attached { session: SESSION, boot: boot(), table_revision: 9 }
}

pub(crate) fn token(epoch: u64) -> Token {
    Token { epoch: Epoch(epoch), holder: Holder::from_bytes([5; 16]) }
}

pub(crate) fn leg(number: u64) -> LegId {
    LegId { meeting: MeetingId::from_bytes(u128::from(number).to_be_bytes()), leg: 0 }
}

pub(crate) fn entry(handle: u64) -> InventoryEntry {
    InventoryEntry {
        handle: Handle(handle),
        leg: leg(handle),
        state: LegState::Live,
        cause: EndCause::None,
        mark: Mark::default(),
        terminals: 1,
        token: token(1),
    }
}

pub(crate) fn claim(handle: u64) -> TakeoverClaim {
    TakeoverClaim { handle: Handle(handle), leg: leg(handle), proof: [7; 32] }
}

pub(crate) fn result(handle: u64) -> TakeoverResult {
    TakeoverResult {
        handle: Handle(handle),
        leg: leg(handle),
        code: ErrorCode::OK,
        retry_after_ms: 0,
        mark: Mark::default(),
        intent: 0,
    }
}

pub(crate) fn results(handles: &[u64]) -> TakeoverAnswer {
    TakeoverAnswer { boot: boot(), table_revision: 9, results: handles.iter().map(|handle| result(*handle)).collect() }
}

pub(crate) fn command(handle: u64, intent: u64) -> Command {
    Command { leg: leg(handle), handle: Handle(handle), intent, op: Op::End(End { cause: EndCause::Commanded }) }
}

pub(crate) fn command_answer(command: &Command) -> CommandAnswer {
    CommandAnswer {
        leg: command.leg,
        handle: command.handle,
        intent: command.intent,
        code: ErrorCode::OK,
        detail: Text::default(),
        boot: boot(),
        table_revision: 9,
        mark: Mark::default(),
    }
}

pub(crate) fn change(revision: u64) -> Change {
    let row = TerminalRow {
        number: Number::new(revision.to_string()).unwrap(),
        home_domain: DomainId(1),
        name: Text::cut("room"),
        online: true,
        in_meeting: true,
        joined_at_ms: revision,
        left_at_ms: 0,
        left_because: remeet_protocol::record::LeaveReason::None,
        business: None,
        decode: None,
        extra_version: None,
    };
    Change { revision, state: RecordState::Present(Record::Terminal(row)) }
}

pub(crate) fn event(number: u64) -> Event {
    Event {
        number,
        leg: leg(1),
        handle: Handle(1),
        previous: number,
        mark: Mark { revision: number + 1, ..Mark::default() },
        ended: EndCause::None,
        changes: vec![change(number + 1)],
    }
}

/// Whether something heard is an error of this kind for its asker.
pub(crate) fn error_of(heard: &Heard) -> Option<(Ticket, &RequestError)> {
    match heard {
        Heard::Inventory(ticket, Err(error))
        | Heard::Attached(ticket, Err(error))
        | Heard::Takeover(ticket, Err((_, error)))
        | Heard::Pulled(ticket, Err(error))
        | Heard::Commanded(ticket, Err(error))
        | Heard::Adopted(ticket, Err(error)) => Some((*ticket, error)),
        _ => None,
    }
}

/// Asserts that a request failed as a breach of the protocol, and that the breach was reported.
pub(crate) fn assert_broken(heard: &[Heard], what: &str) {
    assert!(
        heard.iter().any(|heard| matches!(error_of(heard), Some((_, RequestError::Broken(_))))),
        "{what}: {heard:?}"
    );
    assert!(heard.iter().any(|heard| matches!(heard, Heard::Misbehaved { .. })), "{what}: {heard:?}");
}
