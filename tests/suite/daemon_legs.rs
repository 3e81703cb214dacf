//! Goal: a meeting over several servers, of several domains, is one meeting for its clients, and several legs for
//! recovery: each comes back by itself, and a command needs only the leg that it is about. Method: `remeet run` as a
//! process, three simulated servers on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, LOOK, PATIENCE, Rig, VIEW, add_terminal, create, ok, over_both, said};
use remeet::cms::client::{Client, Notice};
use remeet::ops::status::{LinkState, ServerStatus};
use remeet::simulator::{Kind, Request, Script};
use remeet_protocol::message::{
    AddLeg, AddTerminal, ClientOp, EndCause, EventKind, LegState, MeetingState, SetDecode, SetExtra, WindowSetting,
};
use remeet_protocol::record::{Number, Record, RecordState};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{DomainId, ErrorCode, LegId, MeetingId, RecordKey, ServerId};
use std::collections::BTreeMap;
use std::time::Instant;

fn add_leg(leg: u16, server: u32) -> ClientOp {
    ClientOp::AddLeg(AddLeg { leg, server: ServerId(server) })
}

fn call(number: &str, domain: u32) -> ClientOp {
    let number = Number::cut(number);
    ClientOp::AddTerminal(AddTerminal { number, home_domain: DomainId(domain), name: Text::cut("room") })
}

fn tell(number: &str, value: &str) -> ClientOp {
    let value = Some(Blob::new(value.as_bytes().to_vec()).unwrap());
    ClientOp::SetExtra(SetExtra { number: Number::cut(number), key: Text::cut("seat"), value })
}

/// A meeting over the servers 1, 2 and 3, with a terminal of each one's domain: 601, 602, 603.
async fn meeting_of_three(client: &Client) -> MeetingId {
    let meeting = MeetingId(uuid::Uuid::now_v7());
    for op in [create(meeting, 1), add_leg(1, 2), add_leg(2, 3), ClientOp::Start] {
        ok(client.command(meeting, op).await.unwrap());
    }
    for (number, domain) in [("601", 1), ("602", 2), ("603", 3)] {
        ok(client.command(meeting, call(number, domain)).await.unwrap());
    }
    meeting
}

/// Where each terminal is, by the servers' truth.
fn rosters(rig: &Rig, meeting: MeetingId) -> BTreeMap<String, u16> {
    let mut found = BTreeMap::new();
    for leg in rig.servers.iter().flat_map(|server| server.dump().legs).filter(|leg| leg.leg.meeting == meeting) {
        for record in leg.records {
            if let Record::Terminal(row) = record.record {
                found.insert(row.number.as_str().to_owned(), leg.leg.leg);
            }
        }
    }
    found
}

/// Waits until the client sees the meeting in this state, and of each leg that is live just what its server has.
async fn same_as_servers(rig: &Rig, client: &Client, meeting: MeetingId, state: MeetingState) {
    let begun = Instant::now();
    loop {
        let view = client.get(meeting).await.unwrap().view;
        let mut wanted: BTreeMap<(LegId, RecordKey), Record> = BTreeMap::new();
        for leg in rig.servers.iter().flat_map(|server| server.dump().legs) {
            if leg.leg.meeting == meeting && leg.state == LegState::Live {
                wanted.extend(leg.records.into_iter().map(|one| ((leg.leg, one.record.key()), one.record)));
            }
        }
        let live: Vec<u16> =
            view.info.legs.iter().filter(|leg| leg.state != MeetingState::Ended).map(|leg| leg.leg).collect();
        let mut stored: BTreeMap<(LegId, RecordKey), Record> = BTreeMap::new();
        for (leg, change) in &view.records {
            if let RecordState::Present(record) = &change.state
                && live.contains(&leg.leg)
            {
                stored.insert((*leg, record.key()), record.clone());
            }
        }
        if view.info.state == state && !view.info.recovering && stored == wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}\n{wanted:#?}\n{stored:#?}\n{}", view.info, rig.log());
        tokio::time::sleep(LOOK).await;
    }
}

async fn state_of(rig: &Rig, client: &Client, meeting: MeetingId, wanted: MeetingState) {
    let begun = Instant::now();
    loop {
        let info = client.get(meeting).await.unwrap().view.info;
        if info.state == wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not {wanted:?}: {info:?}\n{}", rig.log());
        tokio::time::sleep(LOOK).await;
    }
}

async fn every_leg_comes_back_and_is_commanded_by_its_terminals(backing: &Backing) {
    let mut rig = Rig::over_domains(&[1, 2, 3], backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = meeting_of_three(&client).await;
    let at_home: BTreeMap<String, u16> =
        [("601", 0), ("602", 1), ("603", 2)].map(|(n, leg)| (n.to_owned(), leg)).into();
    assert_eq!(rosters(&rig, meeting), at_home, "each is called into the leg of its domain");
    rig.kill();
    let script = Script {
        seed: 3,
        fraction: 0.0,
        meetings: Some(vec![meeting]),
        kinds: vec![Kind::Join, Kind::Decode, Kind::Extra],
    };
    rig.servers[1].control(Request::Change(script)).await.unwrap();
    rig.start();
    let status = rig.whole().await;
    let live: u64 = status.servers.iter().map(|server| server.legs.in_meeting).sum();
    assert_eq!(live, 3, "{status:#?}");
    same_as_servers(&rig, &client, meeting, MeetingState::InMeeting).await;

    // A command goes to the leg that has the terminal, whatever leg that is; one that none has is nobody's.
    let window = WindowSetting { window: 1, source: Number::cut("601"), channel: 0, video: true, audio: true };
    let decode = SetDecode {
        number: Number::cut("603"),
        display_mode: 0.into(),
        output: Text::default(),
        codec: 1.into(),
        windows: vec![window],
    };
    ok(client.command(meeting, ClientOp::SetDecode(decode)).await.unwrap());
    ok(client.command(meeting, tell("602", "4")).await.unwrap());
    let nobody = client.command(meeting, tell("699", "4")).await.unwrap();
    assert_eq!(nobody.code, ErrorCode::UNKNOWN_TERMINAL, "{nobody:?}");
    ok(client.command(meeting, call("604", 9)).await.unwrap());
    assert_eq!(rosters(&rig, meeting)["604"], 0, "a domain that carries no leg: the lowest leg");
    same_as_servers(&rig, &client, meeting, MeetingState::InMeeting).await;

    // One server ends its leg: the meeting goes on. The client ends it: all of it.
    rig.servers[2].control(Request::EndLeg { meeting, leg: 2 }).await.unwrap();
    let begun = Instant::now();
    while client.get(meeting).await.unwrap().view.info.legs[2].state != MeetingState::Ended {
        assert!(begun.elapsed() < PATIENCE, "{}", rig.log());
        tokio::time::sleep(LOOK).await;
    }
    same_as_servers(&rig, &client, meeting, MeetingState::InMeeting).await;
    ok(client.command(meeting, ClientOp::End).await.unwrap());
    let info = client.get(meeting).await.unwrap().view.info;
    assert_eq!((info.state, info.cause), (MeetingState::Ended, EndCause::Commanded));
    assert!(rig.servers.iter().all(|server| server.dump().legs.iter().all(|leg| leg.state != LegState::Live)));
    assert!(rig.servers.iter().all(|server| server.stats().stale_executed == 0));
}

async fn a_leg_whose_server_hangs_is_shown_and_the_other_legs_are_commanded(backing: &Backing) {
    let mut rig = Rig::over_domains(&[1, 2, 3], backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = meeting_of_three(&client).await;
    rig.kill();
    rig.servers[2].control(Request::Hang { on: true }).await.unwrap();
    rig.start();
    rig.until("the legs of two servers in control", |status| {
        let ours = |server: &&ServerStatus| server.link == LinkState::Attached && server.legs.in_meeting == 1;
        status.servers.iter().filter(ours).count() == 2
    })
    .await;
    state_of(&rig, &client, meeting, MeetingState::Partly).await;
    let info = client.get(meeting).await.unwrap().view.info;
    let states: Vec<MeetingState> = info.legs.iter().map(|leg| leg.state).collect();
    assert_eq!(states, [MeetingState::InMeeting, MeetingState::InMeeting, MeetingState::Unreachable]);
    let troubled = rig.remeet(&["troubled", "--json"]);
    let shown = said(&troubled);
    assert!(shown.contains(&meeting.to_string()) && shown.contains("\"leg\":2"), "{shown}");

    // The other legs take commands at once; the one that is away takes none, and says so.
    let begun = Instant::now();
    ok(client.command(meeting, tell("602", "7")).await.unwrap());
    ok(client.command(meeting, tell("601", "7")).await.unwrap());
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    let away = client.command(meeting, tell("603", "7")).await.unwrap();
    assert_eq!(away.code, ErrorCode::UNREACHABLE, "{away:?}");
    // Ending waits for it, ends what can be ended, and says what was left.
    let partly = client.command(meeting, ClientOp::End).await.unwrap();
    assert_eq!(partly.code, ErrorCode::PARTLY, "{partly:?}");
    assert!(partly.detail.as_str().contains("leg 2 on server 3"), "{partly:?}");

    rig.servers[2].control(Request::Hang { on: false }).await.unwrap();
    rig.whole().await;
    state_of(&rig, &client, meeting, MeetingState::InMeeting).await;
    ok(client.command(meeting, tell("603", "8")).await.unwrap());
    ok(client.command(meeting, ClientOp::End).await.unwrap());
    state_of(&rig, &client, meeting, MeetingState::Ended).await;
}

over_both! {
    every_leg_comes_back_and_is_commanded_by_its_terminals
    a_leg_whose_server_hangs_is_shown_and_the_other_legs_are_commanded
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_leg_is_made_once_and_on_a_server_of_its_own() {
    let mut rig = Rig::new(3, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = MeetingId(uuid::Uuid::now_v7());
    let ask = async |op| client.command(meeting, op).await.unwrap().code;
    assert_eq!(ask(add_leg(1, 2)).await, ErrorCode::UNKNOWN_MEETING);
    assert_eq!(ask(create(meeting, 1)).await, ErrorCode::OK);
    assert_eq!(ask(add_leg(0, 2)).await, ErrorCode::TOO_MANY);
    assert_eq!(ask(add_leg(16, 2)).await, ErrorCode::TOO_MANY);
    assert_eq!(ask(add_leg(1, 9)).await, ErrorCode::UNKNOWN_IDENTITY);
    assert_eq!(ask(add_leg(1, 1)).await, ErrorCode::EXISTS, "server 1 carries leg 0");
    assert_eq!(ask(add_leg(1, 2)).await, ErrorCode::OK);
    assert_eq!(ask(add_leg(1, 2)).await, ErrorCode::OK, "it is the same leg");
    assert_eq!(ask(add_leg(1, 3)).await, ErrorCode::EXISTS);
    assert_eq!(ask(ClientOp::Start).await, ErrorCode::OK);
    // To a meeting that runs, on the server that is left; after a restart its names come from the store.
    rig.kill();
    rig.start();
    rig.whole().await;
    assert_eq!(ask(add_leg(7, 0)).await, ErrorCode::OK);
    assert_eq!(ask(add_leg(8, 0)).await, ErrorCode::UNKNOWN_IDENTITY, "every server carries one");
    assert_eq!(ask(ClientOp::Start).await, ErrorCode::OK, "what runs goes on, what does not is started");
    let info = client.get(meeting).await.unwrap().view.info;
    let legs: Vec<(u16, u32, MeetingState)> = info.legs.iter().map(|leg| (leg.leg, leg.server.0, leg.state)).collect();
    let inside = MeetingState::InMeeting;
    assert_eq!(legs, [(0, 1, inside), (1, 2, inside), (7, 3, inside)]);
    let third = rig.servers[2].dump().legs.remove(0);
    let Record::Leg(row) = &third.records[0].record else { panic!("{third:?}") };
    assert_eq!(
        (row.title.as_str(), row.creator_name.as_str(), row.chair.as_str()),
        ("a meeting under test", "Ada", "")
    );
    let listed = client.list().await.unwrap();
    assert_eq!((listed.len(), listed[0].legs, listed[0].state), (1, 3, inside));
}

/// Found by the simulation (seed 22): legs that never started end in one write, and each was told as the meeting's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_of_several_legs_that_never_started_is_told_as_ended_once() {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = MeetingId(uuid::Uuid::now_v7());
    for op in [create(meeting, 1), add_leg(1, 2)] {
        ok(client.command(meeting, op).await.unwrap());
    }
    let viewer = rig.client(VIEW).await;
    let mut events = viewer.subscribe(Some(meeting)).await.unwrap();
    assert!(matches!(events.next().await, Some(Notice::Snapshot { .. })));
    ok(client.command(meeting, ClientOp::End).await.unwrap());
    let mut told = Vec::new();
    while told.len() < 2 {
        let next = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
        let Some(Notice::Event(event)) = next else { panic!("{next:?}") };
        told.push((event.kind, event.state));
    }
    assert_eq!(told, [(EventKind::State, MeetingState::Created), (EventKind::Ended, MeetingState::Ended)]);
}

/// A subscriber hears of the end of a meeting once, with its last leg.
#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_is_told_as_ended_with_its_last_leg_and_not_before() {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = MeetingId(uuid::Uuid::now_v7());
    for op in [create(meeting, 1), add_leg(1, 2), ClientOp::Start, add_terminal("601")] {
        ok(client.command(meeting, op).await.unwrap());
    }
    let viewer = rig.client(VIEW).await;
    let mut events = viewer.subscribe(Some(meeting)).await.unwrap();
    assert!(matches!(events.next().await, Some(Notice::Snapshot { .. })));
    rig.servers[0].control(Request::EndLeg { meeting, leg: 0 }).await.unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&(EventKind::Ended, 1, MeetingState::Ended)) {
        let next = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
        let Some(Notice::Event(event)) = next else { panic!("{next:?}") };
        told.push((event.kind, event.leg.leg, event.state));
        if told.last() == Some(&(EventKind::State, 0, MeetingState::InMeeting)) {
            rig.servers[1].control(Request::EndLeg { meeting, leg: 1 }).await.unwrap();
        }
    }
    let ends = told.iter().filter(|(kind, ..)| *kind == EventKind::Ended).count();
    assert_eq!(ends, 1, "{told:?}");
    assert!(told.contains(&(EventKind::State, 0, MeetingState::InMeeting)), "{told:?}");
}
