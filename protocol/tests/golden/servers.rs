//! Golden packets between scheduler and server.

use crate::world::{From::*, *};
use remeet_protocol::ids::*;
use remeet_protocol::message::*;
use remeet_protocol::record::*;
use remeet_protocol::wire::Blob;
use remeet_protocol::{Address, ErrorCode, Packet};

/// Name of the file without its ending, and what it holds.
pub(crate) type Golden = (&'static str, Packet);

pub(crate) fn handshake() -> Vec<Golden> {
    let hello = Hello {
        role: Role::Scheduler,
        id: 7,
        name: text("scheduler-a"),
        instance: token().holder,
        version_min: 0x20,
        version_max: 0x20,
    };
    let client_hello = Hello {
        role: Role::Client,
        id: CLIENT,
        name: text("desk"),
        instance: Holder::from_bytes(0x1122_3344_5566_7788_u128.to_be_bytes()),
        version_min: 0x20,
        version_max: 0x21,
    };
    let welcome = Welcome {
        role: Role::Server,
        version: 0x20,
        domain: DomainId(7),
        id: SERVER.0,
        name: text("server-21"),
        boot: boot(),
        table_revision: 42,
        keep_alive_ms: 2000,
    };
    let goodbye = Goodbye { code: ErrorCode::BUSY, detail: text("too many connections"), retry_after_ms: 500 };
    let stale = Failure {
        code: ErrorCode::STALE_TOKEN,
        retry_after_ms: 0,
        token: Token { epoch: Epoch(6), holder: Holder::from_bytes(sixteen(0x60)) },
        detail: text("epoch 6 has attached"),
    };
    let relayed_hello = hello.clone();
    let away = Failure::new(ErrorCode::UNREACHABLE, "it cannot be connected to");
    vec![
        ("01-hello-scheduler", packet(SchedulerAsks(1), false, hello)),
        ("02-hello-client", packet(ClientAsks(1), false, client_hello)),
        ("03-welcome", packet(ServerAnswers(1, 0, true), false, welcome)),
        ("04-keep-alive", packet(SchedulerAsks(2), false, KeepAlive {})),
        ("05-keep-alive-answer", packet(ServerAnswers(2, 0, true), false, KeepAliveAnswer { table_revision: 42 })),
        ("06-goodbye", packet(ServerTells, false, goodbye)),
        ("07-failure-stale-token", packet(ServerAnswers(9, 0, true), true, stale)),
        ("08-relayed-hello", relayed(packet(SchedulerAsks(1), false, relayed_hello), 1)),
        ("09-relayed-failure", relayed(packet(ServerAnswers(1, 0, true), false, away), 0)),
    ]
}

/// The same with server 22, which is below [`SERVER`], after so many relays.
fn relayed(mut packet: Packet, hops: u8) -> Packet {
    let below = Address::server(ServerId(22));
    for address in [&mut packet.destination, &mut packet.source] {
        if *address == Address::server(SERVER) {
            *address = below;
        }
    }
    packet.header.hops = hops;
    packet
}

pub(crate) fn inventory() -> Vec<Golden> {
    let live = InventoryEntry {
        handle: HANDLE,
        leg: leg(),
        state: LegState::Live,
        cause: EndCause::None,
        mark: mark(),
        terminals: 2,
        token: Token { epoch: Epoch(4), holder: Holder::from_bytes(sixteen(0x40)) },
    };
    let ended = InventoryEntry {
        handle: Handle(4712),
        leg: orphan(),
        state: LegState::Ended,
        cause: EndCause::ByServer,
        mark: Mark { revision: 31, ..Mark::default() },
        terminals: 0,
        token: Token::default(),
    };
    let later =
        InventoryEntry { state: LegState::from(9), cause: EndCause::from(200), handle: Handle(4713), ..ended.clone() };
    let end = InventoryEnd {
        cut: 77,
        table_revision: 42,
        boot: boot(),
        after: 4713,
        page_entries: 3,
        complete: true,
        total: 3,
    };
    vec![
        ("10-query-first-page", packet(SchedulerAsks(3), false, Query { cut: 0, after: 0, packets_max: 16 })),
        ("11-query-later-page", packet(SchedulerAsks(4), false, Query { cut: 77, after: 4711, packets_max: 16 })),
        (
            "12-inventory-page",
            packet(ServerAnswers(3, 0, false), false, InventoryPage { cut: 77, entries: vec![live, ended] }),
        ),
        (
            "13-inventory-page-values-of-a-later-version",
            packet(ServerAnswers(3, 1, false), false, InventoryPage { cut: 77, entries: vec![later] }),
        ),
        ("14-inventory-end", packet(ServerAnswers(3, 2, true), false, end)),
    ]
}

pub(crate) fn control() -> Vec<Golden> {
    let attached = Attached { session: SESSION, boot: boot(), table_revision: 42 };
    let other = TakeoverClaim { handle: Handle(4712), leg: orphan(), proof: [0xee; 32] };
    let takeover =
        Takeover { claims: vec![TakeoverClaim { handle: HANDLE, leg: leg(), proof: takeover_proof() }, other] };
    let result =
        TakeoverResult { handle: HANDLE, leg: leg(), code: ErrorCode::OK, retry_after_ms: 0, mark: mark(), intent: 12 };
    let refused = TakeoverResult {
        handle: Handle(4712),
        leg: orphan(),
        code: ErrorCode::BUSY,
        retry_after_ms: 250,
        mark: Mark::default(),
        intent: 0,
    };
    let answer = TakeoverAnswer { boot: boot(), table_revision: 42, results: vec![result, refused] };
    let adopt =
        Adopt { handle: Handle(4713), old: orphan(), new: leg(), secret: Secret::new(sixteen(0x90)), generation: 1 };
    let adopted = AdoptAnswer { code: ErrorCode::OK, boot: boot(), table_revision: 43, mark: mark(), intent: 3 };
    vec![
        ("20-attach", packet(SchedulerAsks(5), false, Attach { token: token() })),
        ("21-attached", packet(ServerAnswers(5, 0, true), true, attached)),
        ("22-takeover", packet(SchedulerAsks(6), true, takeover)),
        ("23-takeover-answer", packet(ServerAnswers(6, 0, true), true, answer)),
        ("24-adopt", packet(SchedulerAsks(7), true, adopt)),
        ("25-adopt-answer", packet(ServerAnswers(7, 0, true), true, adopted)),
    ]
}

pub(crate) fn content() -> Vec<Golden> {
    let pull = Pull { handle: HANDLE, leg: leg(), since: 0, upto: 0, after: 0, full: false, packets_max: 32 };
    let later = Pull { since: 3, upto: 9, after: 6, ..pull.clone() };
    let removals = vec![
        removed(4, RecordKey::Window(text("4203"), 16)),
        removed(5, RecordKey::Entry(text("4203"), text("seat"))),
        removed(6, RecordKey::Terminal(text("4203"))),
        removed(7, RecordKey::Leg),
    ];
    let end = PullEnd { leg: leg(), full: true, upto: mark(), after: 9, page_changes: 5, complete: true };
    let page = |changes| PullPage { leg: leg(), changes };
    let one = |record| page(vec![present(9, record)]);
    vec![
        ("30-pull-everything", packet(SchedulerAsks(8), true, pull)),
        ("31-pull-later-page", packet(SchedulerAsks(9), true, later)),
        ("32-pull-page-whole-leg", packet(ServerAnswers(8, 0, false), true, page(records()))),
        ("33-pull-end", packet(ServerAnswers(8, 1, true), true, end)),
        ("34-record-leg", packet(ServerAnswers(9, 0, false), true, one(Record::Leg(leg_row())))),
        ("35-record-terminal", packet(ServerAnswers(9, 1, false), true, one(Record::Terminal(terminal_row())))),
        (
            "36-record-terminal-states-unknown",
            packet(ServerAnswers(9, 2, false), true, one(Record::Terminal(unknown_terminal_row()))),
        ),
        ("37-record-window", packet(ServerAnswers(9, 3, false), true, one(Record::Window(window_row())))),
        ("38-record-entry", packet(ServerAnswers(9, 4, false), true, one(Record::Entry(entry_row())))),
        ("39-records-removed", packet(ServerAnswers(9, 5, false), true, page(removals))),
    ]
}

pub(crate) fn commands() -> Vec<Golden> {
    let command = |intent, op| Command { leg: leg(), handle: HANDLE, intent, op };
    let start = Start { secret: secret(), generation: 1, row: LegRow { started_at_ms: 0, ..leg_row() } };
    let add = AddTerminal { number: text("4203"), home_domain: DomainId(8), name: text("Lab") };
    let decode = SetDecode {
        number: text("4201"),
        display_mode: DisplayMode::TwoSplit,
        output: text("hdmi-1"),
        codec: MediaCodec::H265,
        windows: vec![
            WindowSetting { window: 1, source: text("4202"), channel: 0, video: true, audio: true },
            WindowSetting { window: 2, source: text(""), channel: 1, video: false, audio: false },
        ],
    };
    let set = SetExtra { number: text("4201"), key: text("seat"), value: Some(Blob::new(&b"A-12"[..]).unwrap()) };
    let ops = [
        ("40-command-start", Op::Start(start)),
        ("41-command-end", Op::End(End { cause: EndCause::Commanded })),
        ("42-command-add-terminal", Op::AddTerminal(add)),
        (
            "43-command-remove-terminal",
            Op::RemoveTerminal(RemoveTerminal { number: text("4203"), reason: LeaveReason::Removed }),
        ),
        ("44-command-set-role", Op::SetRole(SetRole { number: text("4202"), role: TerminalRole::FirstSpeaker })),
        ("45-command-set-decode", Op::SetDecode(decode)),
        ("46-command-set-extra", Op::SetExtra(set.clone())),
        ("47-command-remove-extra", Op::SetExtra(SetExtra { value: None, ..set })),
    ];
    let answer = CommandAnswer {
        leg: leg(),
        handle: HANDLE,
        intent: 5,
        code: ErrorCode::TOO_MANY,
        detail: text("16 windows are the most"),
        boot: boot(),
        table_revision: 42,
        mark: mark(),
    };
    let mut packets: Vec<Golden> = ops
        .into_iter()
        .zip(1..)
        .map(|((name, op), intent)| {
            let handle = if matches!(op, Op::Start(_)) { Handle(0) } else { HANDLE };
            (name, packet(SchedulerAsks(20 + intent), true, Command { handle, ..command(intent, op) }))
        })
        .collect();
    packets.push(("48-command-answer", packet(ServerAnswers(25, 0, true), true, answer)));
    packets
}

pub(crate) fn events() -> Vec<Golden> {
    let changed = Event {
        number: 1001,
        leg: leg(),
        handle: HANDLE,
        previous: 7,
        mark: mark(),
        ended: EndCause::None,
        changes: vec![removed(8, RecordKey::Entry(text("4201"), text("hand"))), present(9, Record::Leg(leg_row()))],
    };
    let ended = Event {
        number: 1002,
        leg: leg(),
        handle: HANDLE,
        previous: 9,
        mark: mark(),
        ended: EndCause::Commanded,
        changes: vec![],
    };
    vec![
        ("50-event-changed", packet(ServerTells, true, changed)),
        ("51-event-ended", packet(ServerTells, true, ended)),
        ("52-event-gap", packet(ServerTells, true, EventGap { first: 1003, last: 1500 })),
        ("53-event-ack", packet(SchedulerTells, true, EventAck { number: 1002 })),
    ]
}
