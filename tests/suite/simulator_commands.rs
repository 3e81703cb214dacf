//! Commands and events of a simulated server: intents, tombstones, acknowledgement, gaps, restarts.

#![allow(clippy::unwrap_used)]

use crate::simulator_client::*;
use remeet::simulator::{Options, Request, RestartMode, Script};
use remeet_protocol::message::*;
use remeet_protocol::record::{BusinessState, LeaveReason, Record, RecordState};
use remeet_protocol::*;

fn end() -> Op {
    Op::End(End { cause: EndCause::Commanded })
}

#[tokio::test]
async fn an_intent_has_one_effect_and_one_answer_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { state: Some(folder.path().join("state")), ..Options::default() };
    let server = simulator_with(options.clone()).await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.meeting(1, 2).await;
    let remove = Op::RemoveTerminal(RemoveTerminal { number: terminal(2), reason: LeaveReason::Removed });
    let first = scheduler.command(leg(1), 7, remove.clone()).await;
    let refused = scheduler.command(leg(1), 8, remove.clone()).await;
    assert_eq!((first.code, refused.code), (ErrorCode::OK, ErrorCode::UNKNOWN_TERMINAL));
    let truth = server.dump();

    // The same request again, the same intent under another request, a lower intent.
    assert_eq!(scheduler.ask_as(scheduler.request, command(8, &remove)).await, [refused.clone().into()]);
    assert_eq!(scheduler.command(leg(1), 8, remove.clone()).await, refused);
    assert_eq!(scheduler.command(leg(1), 7, remove.clone()).await.code, ErrorCode::STALE_INTENT);
    assert_eq!(scheduler.command(leg(1), 3, add(9)).await.code, ErrorCode::STALE_INTENT);
    assert_eq!(server.dump().legs, truth.legs);

    server.control(Request::Restart { mode: RestartMode::SameBoot, down_ms: 0 }).await.unwrap();
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.request = 100;
    assert_eq!(scheduler.command(leg(1), 8, remove.clone()).await, refused, "after a restart within the process");
    server.stop().await.unwrap();

    let server = simulator_with(options).await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.request = 200;
    assert_eq!(scheduler.command(leg(1), 8, remove.clone()).await, refused, "in a new process");
    assert_eq!(scheduler.command(leg(1), 7, remove).await.code, ErrorCode::STALE_INTENT);
    assert_eq!(server.dump().legs, truth.legs);
    assert_eq!(scheduler.command(leg(1), 9, add(9)).await.code, ErrorCode::OK);
}

fn command(intent: u64, op: &Op) -> Command {
    Command { leg: leg(1), handle: Handle(0), intent, op: op.clone() }
}

#[tokio::test]
async fn a_start_is_recognised_by_the_legs_name() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let first = scheduler.command(leg(1), 1, start(secret(1))).await;
    assert_eq!(scheduler.command(leg(1), 1, start(secret(1))).await, first);
    let later = scheduler.command(leg(1), 4, start(secret(1))).await;
    assert_eq!((later.code, later.handle, later.mark), (ErrorCode::OK, first.handle, first.mark));
    assert_eq!(scheduler.command(leg(1), 1, start(secret(2))).await.code, ErrorCode::EXISTS);
    let dump = server.dump();
    assert_eq!((dump.legs.len(), dump.legs[0].intent, dump.table_revision), (1, 1, 1));
    assert_eq!(scheduler.command(leg(2), 1, add(1)).await.code, ErrorCode::UNKNOWN_MEETING);
    let wrong_handle = Command { leg: leg(1), handle: Handle(77), intent: 2, op: add(1) };
    let answer = scheduler.one(wrong_handle).await;
    assert!(matches!(&answer, Message::CommandAnswer(a) if a.code == ErrorCode::UNKNOWN_MEETING), "{answer:?}");
}

#[tokio::test]
async fn a_commands_events_come_before_its_answer_and_tell_a_terminals_coming() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.meeting(1, 0).await;
    let answer = scheduler.command(leg(1), 2, add(1)).await;
    let Some(Notice::Event(event)) = scheduler.notices.pop_front() else { panic!("the answer came first") };
    assert_eq!((event.previous, event.mark), (1, answer.mark));
    let states: Vec<_> = event
        .changes
        .iter()
        .filter_map(|change| match &change.state {
            RecordState::Present(Record::Terminal(row)) => row.business.as_ref().map(|business| business.state),
            _ => None,
        })
        .collect();
    assert_eq!(states, [BusinessState::Ringing, BusinessState::InMeeting]);
    let dump = server.dump();
    let Record::Terminal(row) = &dump.legs[0].records[1].record else { panic!("{:?}", dump.legs[0].records) };
    assert!(row.in_meeting && row.decode.is_some() && row.extra_version.is_some(), "all groups are known: {row:?}");
}

#[tokio::test]
async fn rule_9_a_tombstone_stays_until_its_ended_event_is_acknowledged() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = scheduler.meeting(1, 2).await;
    scheduler.meeting(2, 1).await;
    let revision = server.dump().table_revision;
    let ended = scheduler.command(leg(1), 9, end()).await;
    assert_eq!((ended.code, ended.table_revision), (ErrorCode::OK, revision + 1));

    // Shown as ended, started never again, its last answer kept.
    let (entries, _) = scheduler.inventory().await;
    let entry = entries.iter().find(|entry| entry.leg == leg(1)).unwrap();
    assert_eq!((entry.state, entry.cause, entry.handle), (LegState::Ended, EndCause::Commanded, handle));
    assert_eq!(scheduler.command(leg(1), 1, start(secret(1))).await.code, ErrorCode::ENDED);
    assert_eq!(scheduler.command(leg(1), 9, end()).await, ended, "the end repeated");
    assert_eq!(scheduler.command(leg(1), 10, end()).await.code, ErrorCode::ENDED);
    assert_eq!(scheduler.take_over_one(leg(1), handle, &secret(1)).await.code, ErrorCode::ENDED);

    // Over a restart too.
    server.control(Request::Restart { mode: RestartMode::SameBoot, down_ms: 0 }).await.unwrap();
    let mut scheduler = Scheduler::attached(server.address, token(2, 2)).await;
    assert_eq!(scheduler.command(leg(1), 1, start(secret(1))).await.code, ErrorCode::ENDED);
    let event = scheduler.event().await;
    assert_eq!((event.leg, event.ended, event.previous), (leg(1), EndCause::Commanded, event.mark.revision));

    let before = server.dump().table_revision;
    scheduler.acknowledge(event.number).await;
    let dump = server.dump();
    assert_eq!((dump.legs.len(), dump.legs[0].leg, dump.table_revision), (1, leg(2), before + 1));
    assert_eq!(scheduler.command(leg(1), 11, end()).await.code, ErrorCode::UNKNOWN_MEETING);
}

#[tokio::test]
async fn events_wait_for_an_attach_are_sent_again_and_end_with_their_acknowledgement() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.meeting(1, 3).await;
    drop(scheduler);
    let script = Script { seed: 5, fraction: 1.0, meetings: None, kinds: Vec::new() };
    server.control(Request::Change(script)).await.unwrap();
    server.control(Request::EndLeg { meeting: leg(1).meeting, leg: 0 }).await.unwrap();

    let mut told = Vec::new();
    for round in 1..=2 {
        let mut scheduler = Scheduler::attached(server.address, token(round, 1)).await;
        let mut events = vec![scheduler.event().await];
        while events.last().unwrap().ended == EndCause::None {
            events.push(scheduler.event().await);
        }
        assert!(events.windows(2).all(|pair| pair[1].number == pair[0].number + 1));
        assert!(events.windows(2).all(|pair| pair[1].previous == pair[0].mark.revision), "events chain");
        told.push(events);
    }
    assert_eq!(told[0], told[1], "the same events to the next session");

    let mut scheduler = Scheduler::attached(server.address, token(3, 1)).await;
    let last = told[0].last().unwrap().number;
    scheduler.acknowledge(last + 1000).await;
    assert_eq!(server.dump().events_waiting, told[0].len(), "what was not sent is not acknowledged");
    scheduler.acknowledge(last).await;
    assert_eq!(server.dump().events_waiting, 0);
    assert!(server.dump().legs.is_empty());
}

#[tokio::test]
async fn at_most_256_events_are_in_flight_and_no_answer_overtakes_its_events() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.meeting(1, 1).await;
    // The answer to a command that would be the 257th event waits until there is room for it.
    for value in 0..=u8::MAX {
        let op = Op::SetExtra(SetExtra {
            number: terminal(1),
            key: wire::Text::cut("n"),
            value: Some(wire::Blob::new(vec![value; 8]).unwrap()),
        });
        assert_eq!(scheduler.command(leg(1), 10 + u64::from(value), op).await.code, ErrorCode::OK);
    }
    assert_eq!(scheduler.notices.len(), 256);
    let Some(Notice::Event(first)) = scheduler.notices.front().cloned() else { panic!() };
    scheduler.request += 1;
    let request = scheduler.request;
    let header = packet::Header { session: scheduler.session, request, ..Default::default() };
    scheduler.send(header, Command { leg: leg(1), handle: Handle(0), intent: 900, op: add(2) }.into()).await;
    // Reading goes on meanwhile, and shows that the command ran.
    let (entries, _) = scheduler.inventory().await;
    assert_eq!(entries[0].terminals, 2);
    assert_eq!(scheduler.notices.len(), 256, "neither event nor answer");
    let ack = EventAck { number: first.number };
    scheduler.send(packet::Header { session: scheduler.session, ..Default::default() }, ack.into()).await;
    let event = scheduler.packet().await.unwrap().unwrap().unwrap();
    assert!(matches!(event.message, Message::Event(_)), "{event:?}");
    let answer = scheduler.packet().await.unwrap().unwrap().unwrap();
    assert!(matches!(answer.message, Message::CommandAnswer(_)) && answer.header.request == request, "{answer:?}");
}

#[tokio::test]
async fn an_overflow_is_a_gap_in_the_place_of_what_was_lost() {
    let server = simulator_with(Options { event_queue: 20, ..Options::default() }).await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.meeting(1, 1).await;
    scheduler.meeting(2, 1).await;
    drop(scheduler);
    until(|| async { server.control(Request::Status).await.unwrap()["connections"] == 0 }).await;
    server.control(Request::EndLeg { meeting: leg(2).meeting, leg: 0 }).await.unwrap();
    for seed in 0..50 {
        let script = Script { seed, fraction: 1.0, meetings: Some(vec![leg(1).meeting]), kinds: Vec::new() };
        server.control(Request::Change(script)).await.unwrap();
    }
    assert!(server.dump().events_waiting <= 20);
    let lost = server.stats().events_lost;
    let mut scheduler = Scheduler::attached(server.address, token(2, 1)).await;
    let Notice::Gap(gap) = scheduler.notice().await else { panic!("no gap") };
    assert_eq!(gap.last - gap.first + 1, lost);
    let event = scheduler.event().await;
    assert_eq!(event.number, gap.last + 1);
    let (entries, _) = scheduler.inventory().await;
    assert_eq!(entries.len(), 2, "the tombstone whose event was lost is still shown");
    scheduler.acknowledge(gap.last).await;
    assert_eq!(server.dump().legs.len(), 1, "and goes with the gap");
}

#[tokio::test]
async fn a_restart_keeps_everything_or_loses_the_tables_and_says_so() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = scheduler.meeting(1, 3).await;
    let before = server.dump();
    server.control(Request::Restart { mode: RestartMode::SameBoot, down_ms: 0 }).await.unwrap();
    assert!(scheduler.closed().await, "connections end");
    assert_eq!(server.dump(), before);
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.request = 100;
    assert_eq!(scheduler.boot, before.boot);
    let old = scheduler.claim(leg(1), handle, &secret(1));

    server.control(Request::Restart { mode: RestartMode::NewBoot, down_ms: 0 }).await.unwrap();
    let after = server.dump();
    assert!(after.legs.is_empty() && after.events_waiting == 0 && after.boot != before.boot);
    let mut scheduler = Scheduler::attached(server.address, token(2, 1)).await;
    assert_eq!(scheduler.boot, after.boot);
    assert_eq!(scheduler.take_over(vec![old]).await[0].code, ErrorCode::UNKNOWN_MEETING);
    // The handle comes again: a proof for the old life is no good for the new leg.
    assert_eq!(scheduler.meeting(1, 0).await, handle);
    scheduler.boot = before.boot;
    assert_eq!(scheduler.take_over_one(leg(1), handle, &secret(1)).await.code, ErrorCode::BAD_KEY);
}

#[tokio::test]
async fn whatever_was_answered_is_in_the_state_file_however_the_process_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (state, copy) = (folder.path().join("state"), folder.path().join("copy"));
    let server = simulator_with(Options { state: Some(state.clone()), permit_adopt: true, ..Options::default() }).await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let mut intent = 0;
    for step in 0..12_u16 {
        intent += 1;
        let code = match step {
            0 => scheduler.command(leg(1), intent, start(secret(1))).await.code,
            4 => {
                scheduler.attach(token(2, 2)).await.unwrap();
                let handle = server.dump().legs[0].handle;
                scheduler.take_over_one(leg(1), handle, &secret(1)).await.code
            }
            8 => {
                let handle = server.dump().legs[0].handle;
                let adopt = Adopt { handle, old: leg(1), new: leg(1), secret: secret(3), generation: 9 };
                scheduler.one(adopt).await;
                ErrorCode::OK
            }
            9 => {
                let number = scheduler.event().await.number;
                scheduler.acknowledge(number).await;
                ErrorCode::OK
            }
            11 => scheduler.command(leg(1), intent, end()).await.code,
            _ => scheduler.command(leg(1), intent, add(step)).await.code,
        };
        assert_eq!(code, ErrorCode::OK, "step {step}");
        // What a killed process would leave behind.
        std::fs::copy(&state, &copy).unwrap();
        let twin = simulator_with(Options { state: Some(copy.clone()), ..Options::default() }).await;
        assert_eq!(twin.dump(), server.dump(), "step {step}");
        twin.stop().await.unwrap();
    }
}
