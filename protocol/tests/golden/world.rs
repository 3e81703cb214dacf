//! The names and rows that golden packets speak of: one scheduler, one server, one client, one meeting.

use remeet_protocol::ids::*;
use remeet_protocol::message::*;
use remeet_protocol::proof::{self, Claim, Proof};
use remeet_protocol::record::*;
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{Address, Flags, Header, Packet};

pub(crate) const SCHEDULER_DOMAIN: DomainId = DomainId(7);
pub(crate) const SERVER: ServerId = ServerId(21);
pub(crate) const CLIENT: u32 = 301;
pub(crate) const HANDLE: Handle = Handle(4711);
pub(crate) const SESSION: u64 = 0x5e55_1011_c0de_0001;

/// 16 bytes that count up from `first`: easy to find in a dump.
pub(crate) fn sixteen(first: u8) -> [u8; 16] {
    std::array::from_fn(|place| first + u8::try_from(place).unwrap())
}

pub(crate) fn text<const MAX: usize>(text: &str) -> Text<MAX> {
    Text::new(text).unwrap()
}

pub(crate) fn meeting() -> MeetingId {
    "0192f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506".parse().unwrap()
}

pub(crate) fn leg() -> LegId {
    LegId { meeting: meeting(), leg: 0 }
}

pub(crate) fn orphan() -> LegId {
    LegId { meeting: MeetingId::from_bytes(sixteen(0xe0)), leg: 1 }
}

pub(crate) fn boot() -> BootId {
    BootId::from_bytes(sixteen(0xb0))
}

pub(crate) fn token() -> Token {
    Token { epoch: Epoch(5), holder: Holder::from_bytes(sixteen(0x50)) }
}

pub(crate) fn secret() -> Secret {
    Secret::new(sixteen(0x70))
}

pub(crate) fn claim() -> Claim {
    Claim { server: SERVER, boot: boot(), handle: HANDLE, leg: leg(), token: token() }
}

pub(crate) fn takeover_proof() -> Proof {
    proof::prove(&secret(), &claim())
}

pub(crate) fn leg_row() -> LegRow {
    LegRow {
        number: text("990001"),
        title: text("Monday round"),
        creator: text("4201"),
        creator_name: text("Ada"),
        chair: text("4201"),
        first_speaker: text("4202"),
        second_speaker: text(""),
        started_at_ms: 1_795_305_600_000,
    }
}

pub(crate) fn terminal_row() -> TerminalRow {
    TerminalRow {
        number: text("4201"),
        home_domain: DomainId(7),
        name: text("Room Zürich"),
        online: true,
        in_meeting: true,
        joined_at_ms: 1_795_305_601_500,
        left_at_ms: 0,
        left_because: LeaveReason::None,
        business: Some(Business {
            state: BusinessState::InMeeting,
            since_ms: 1_795_305_601_500,
            sends_main: true,
            sends_auxiliary: false,
            resolution: Resolution::Full,
        }),
        decode: Some(Decode { display_mode: DisplayMode::TwoSplit, output: text("hdmi-1"), codec: MediaCodec::H265 }),
        extra_version: Some(3),
    }
}

/// A terminal of which the server knows nothing but that it is on the roster.
pub(crate) fn unknown_terminal_row() -> TerminalRow {
    TerminalRow {
        number: text("4202"),
        home_domain: DomainId(8),
        name: text(""),
        online: false,
        in_meeting: false,
        joined_at_ms: 0,
        left_at_ms: 0,
        left_because: LeaveReason::None,
        business: None,
        decode: None,
        extra_version: None,
    }
}

pub(crate) fn window_row() -> WindowRow {
    WindowRow {
        terminal: text("4201"),
        window: 1,
        source: text("4202"),
        channel: 0,
        video: true,
        audio: true,
        codec: MediaCodec::H265,
        errors: 2,
    }
}

pub(crate) fn entry_row() -> EntryRow {
    EntryRow { terminal: text("4201"), key: text("seat"), value: Blob::new(&b"A-12"[..]).unwrap() }
}

/// Every record of the leg, with the revision that changed it last.
pub(crate) fn records() -> Vec<Change> {
    vec![
        present(2, Record::Terminal(unknown_terminal_row())),
        present(5, Record::Window(window_row())),
        present(6, Record::Entry(entry_row())),
        present(7, Record::Terminal(terminal_row())),
        present(9, Record::Leg(leg_row())),
    ]
}

/// The mark of [`records`].
pub(crate) fn mark() -> Mark {
    let mut mark = Mark { revision: 9, ..Mark::default() };
    for change in records() {
        let RecordState::Present(record) = &change.state else { continue };
        mark.count(record, true);
    }
    mark
}

pub(crate) fn present(revision: u64, record: Record) -> Change {
    Change { revision, state: RecordState::Present(record) }
}

pub(crate) fn removed(revision: u64, key: RecordKey) -> Change {
    Change { revision, state: RecordState::Removed(key) }
}

/// Who sends, and as what.
#[derive(Clone, Copy)]
pub(crate) enum From {
    /// The scheduler asks its server.
    SchedulerAsks(u64),
    /// The scheduler tells its server.
    SchedulerTells,
    /// The server answers: request id, place, last or not.
    ServerAnswers(u64, u32, bool),
    /// The server tells the scheduler.
    ServerTells,
    /// The client asks.
    ClientAsks(u64),
    /// The scheduler answers a client.
    ClientAnswered(u64, u32, bool),
    /// The scheduler tells a client.
    ClientTold,
}

/// A packet between the parties; `session` is set where the message belongs to one.
pub(crate) fn packet(from: From, in_session: bool, message: impl Into<Message>) -> Packet {
    let (scheduler, server, client) =
        (Address::scheduler(SCHEDULER_DOMAIN), Address::server(SERVER), Address::client(CLIENT));
    let answer = |last| if last { Flags::FINAL_ANSWER } else { Flags::ANSWER };
    let (source, destination, flags, request, index) = match from {
        From::SchedulerAsks(request) => (scheduler, server, Flags::NONE, request, 0),
        From::SchedulerTells => (scheduler, server, Flags::NONE, 0, 0),
        From::ServerAnswers(request, index, last) => (server, scheduler, answer(last), request, index),
        From::ServerTells => (server, scheduler, Flags::NONE, 0, 0),
        From::ClientAsks(request) => (client, scheduler, Flags::NONE, request, 0),
        From::ClientAnswered(request, index, last) => (scheduler, client, answer(last), request, index),
        From::ClientTold => (scheduler, client, Flags::NONE, 0, 0),
    };
    let session = if in_session { SESSION } else { 0 };
    Packet {
        destination,
        source,
        header: Header { flags, session, request, index, ..Header::default() },
        message: message.into(),
    }
}
