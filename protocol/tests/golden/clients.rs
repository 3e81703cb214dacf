//! Golden packets between client and scheduler.

use crate::servers::Golden;
use crate::world::{From::*, *};
use remeet_protocol::ErrorCode;
use remeet_protocol::ids::*;
use remeet_protocol::message::*;
use remeet_protocol::record::*;
use remeet_protocol::wire::Blob;

pub(crate) fn commands() -> Vec<Golden> {
    let create = Create {
        meeting: meeting(),
        server: ServerId(0),
        number: text("990001"),
        title: text("Monday round"),
        creator: text("4201"),
        creator_name: text("Ada"),
    };
    let decode = SetDecode {
        number: text("4201"),
        display_mode: DisplayMode::Single,
        output: text("hdmi-1"),
        codec: MediaCodec::None,
        windows: vec![],
    };
    let extra = SetExtra { number: text("4201"), key: text("alias"), value: Some(Blob::default()) };
    let adopt = AdoptOrphan { server: SERVER, handle: Handle(4713), leg: orphan(), end: true };
    let add = AddTerminal { number: text("4203"), home_domain: DomainId(8), name: text("Lab") };
    let ops = [
        ("60-client-create", ClientOp::Create(create)),
        ("61-client-start", ClientOp::Start),
        ("62-client-end", ClientOp::End),
        ("63-client-add-terminal", ClientOp::AddTerminal(add)),
        (
            "64-client-remove-terminal",
            ClientOp::RemoveTerminal(RemoveTerminal { number: text("4203"), reason: LeaveReason::Removed }),
        ),
        ("65-client-set-role", ClientOp::SetRole(SetRole { number: text("4202"), role: TerminalRole::Participant })),
        ("66-client-set-decode", ClientOp::SetDecode(decode)),
        ("67-client-set-extra", ClientOp::SetExtra(extra)),
        ("68-client-mark", ClientOp::Mark(true)),
        ("69-client-adopt", ClientOp::Adopt(adopt)),
        ("71-client-add-leg", ClientOp::AddLeg(AddLeg { leg: 1, server: ServerId(22) })),
    ];
    let answer = ClientAnswer {
        instance: 0x1122_3344_5566_7788,
        number: 10,
        code: ErrorCode::RETRY,
        retry_after_ms: 1000,
        detail: text("the meeting is being recovered"),
        meeting: meeting(),
    };
    let mut packets: Vec<Golden> = ops
        .into_iter()
        .zip(1..)
        .map(|((name, op), number)| {
            let meeting = if matches!(op, ClientOp::Adopt(_)) { MeetingId::default() } else { meeting() };
            let command = ClientCommand { instance: 0x1122_3344_5566_7788, number, meeting, op };
            (name, packet(ClientAsks(1 + number), false, command))
        })
        .collect();
    packets.push(("70-client-answer", packet(ClientAnswered(11, 0, true), false, answer)));
    packets
}

pub(crate) fn reading() -> Vec<Golden> {
    let info = MeetingInfo {
        meeting: meeting(),
        state: MeetingState::Recovering,
        cause: EndCause::None,
        recovering: true,
        update: false,
        epoch: Epoch(5),
        server: SERVER,
        number: text("990001"),
        title: text("Monday round"),
        revision: 9,
        legs: vec![
            LegInfo { leg: 0, server: SERVER, state: MeetingState::Recovering, revision: 9 },
            LegInfo { leg: 1, server: ServerId(22), state: MeetingState::Unreachable, revision: 4 },
        ],
    };
    let update = MeetingInfo { state: MeetingState::Partly, recovering: false, update: true, ..info.clone() };
    let entry = ListEntry {
        meeting: meeting(),
        state: MeetingState::InMeeting,
        server: SERVER,
        revision: 9,
        number: text("990001"),
        title: text("Monday round"),
        legs: 2,
    };
    let page = ListPage { entries: vec![entry] };
    let end = ListEnd { after: meeting(), entries: 1, complete: true };
    let records = MeetingRecords { leg: leg(), changes: records() };
    let event = ClientEvent {
        epoch: Epoch(5),
        sequence: 18,
        leg: leg(),
        kind: EventKind::Changed,
        state: MeetingState::InMeeting,
        cause: EndCause::None,
        revision: 9,
        changes: vec![present(9, Record::Leg(leg_row()))],
    };
    let ended = ClientEvent {
        sequence: 19,
        kind: EventKind::Ended,
        state: MeetingState::Ended,
        cause: EndCause::Vanished,
        changes: vec![],
        ..event.clone()
    };
    vec![
        ("80-get", packet(ClientAsks(12), false, Get { meeting: meeting() })),
        ("81-meeting-info-recovering", packet(ClientAnswered(12, 0, false), false, info)),
        ("82-meeting-info-update", packet(ClientAnswered(12, 0, false), false, update)),
        ("83-meeting-records", packet(ClientAnswered(12, 1, false), false, records)),
        ("84-meeting-end", packet(ClientAnswered(12, 2, true), false, MeetingEnd { meeting: meeting(), records: 5 })),
        ("85-list", packet(ClientAsks(13), false, List { after: MeetingId::default(), entries_max: 100 })),
        ("86-list-page", packet(ClientAnswered(13, 0, false), false, page)),
        ("87-list-end", packet(ClientAnswered(13, 1, true), false, end)),
        ("88-subscribe-all", packet(ClientAsks(14), false, Subscribe { meeting: None })),
        ("89-subscribe-one", packet(ClientAsks(15), false, Subscribe { meeting: Some(meeting()) })),
        ("90-subscribed", packet(ClientAnswered(14, 0, false), false, Subscribed { epoch: Epoch(5), sequence: 17 })),
        ("91-client-event-changed", packet(ClientTold, false, event)),
        ("92-client-event-ended", packet(ClientTold, false, ended)),
        ("93-reset", packet(ClientTold, false, Reset { epoch: Epoch(6), sequence: 0 })),
    ]
}
