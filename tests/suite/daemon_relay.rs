//! Goal: servers that are reached through others are servers like all others: each is recovered by itself, is away by
//! itself, and speaks for itself only. Method: `remeet run` as a process and a tree of simulated servers on real
//! sockets, relays among them:
//!
//! ```text
//!   remeet run ---- 1 ---- 2
//!                    `---- 3 ---- 4
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, LOOK, PATIENCE, Rig, add_terminal, create, ok, over_both, said};
use crate::simulator_client::{Scheduler, token};
use remeet::cms::client::Client;
use remeet::ops::status::{LinkState, Status};
use remeet::simulator::{Child, Misbehaviour, Options, Request, RestartMode, Script, Simulator};
use remeet_protocol::message::{ClientOp, MeetingState};
use remeet_protocol::{ErrorCode, MeetingId, ServerId};
use std::time::{Duration, Instant};

/// Servers 1 to 4, made from the leaves up; the daemon is not started yet.
async fn tree(backing: &Backing) -> Rig {
    tree_with(backing, |_| {}).await
}

async fn tree_with(backing: &Backing, change: impl Fn(&mut Options)) -> Rig {
    let mut rig = Rig::new(0, backing).await;
    let mut addresses = std::collections::BTreeMap::new();
    let mut running = Vec::new();
    for id in [4, 3, 2, 1] {
        let child = |id: u32, below: &[u32]| Child {
            id: ServerId(id),
            address: addresses[&id],
            below: below.iter().map(|id| ServerId(*id)).collect(),
        };
        let children = match id {
            1 => vec![child(2, &[]), child(3, &[4])],
            3 => vec![child(4, &[])],
            _ => Vec::new(),
        };
        let mut options = Options {
            server_id: id,
            name: format!("server {id}"),
            seed: Some(u64::from(id)),
            keep_alive_ms: 1_000,
            children,
            ..Options::default()
        };
        change(&mut options);
        let server = Simulator::spawn(options).await.unwrap();
        addresses.insert(id, server.address);
        running.insert(0, server);
    }
    rig.servers = running;
    rig.under = [(2, 1), (3, 1), (4, 3)].into();
    rig.write_config("remeet.toml", "state", backing, rig.clients_at, 6_000);
    rig.environment("REMEET_LINK__KEEP_ALIVE_MS", "300");
    rig.environment("REMEET_LINK__RECONNECT_MAX_MS", "500");
    rig
}

/// A meeting on each server.
async fn meetings(rig: &Rig, client: &Client) -> Vec<MeetingId> {
    let mut meetings = Vec::new();
    for server in 1..=4 {
        meetings.push(rig.meeting(client, server, 2).await);
    }
    meetings
}

fn link(status: &Status, server: u32) -> LinkState {
    status.servers.iter().find(|one| one.id == ServerId(server)).expect("it is configured").link
}

async fn until_linked(rig: &Rig, wanted: [bool; 4]) -> Status {
    let fits = |status: &Status| {
        (1..).zip(wanted).all(|(server, attached)| (link(status, server) == LinkState::Attached) == attached)
    };
    rig.until(&format!("linked as {wanted:?}"), fits).await
}

async fn until_state(rig: &Rig, client: &Client, meeting: MeetingId, wanted: MeetingState) {
    let begun = Instant::now();
    while client.get(meeting).await.unwrap().view.info.state != wanted {
        assert!(begun.elapsed() < PATIENCE, "not {wanted:?}\n{}", rig.log());
        tokio::time::sleep(LOOK).await;
    }
}

fn changes(meetings: &[MeetingId]) -> Request {
    Request::Change(Script { seed: 5, fraction: 0.0, meetings: Some(meetings.to_vec()), kinds: Vec::new() })
}

async fn servers_below_others_are_taken_back_like_all(backing: &Backing) {
    let mut rig = tree(backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = meetings(&rig, &client).await;
    rig.kill();
    for server in &rig.servers {
        server.control(changes(&meetings)).await.unwrap();
    }
    rig.start();
    let status = rig.whole().await;
    let recovered: u64 = status.rounds.iter().map(|round| round.recovered).sum();
    assert_eq!(recovered, 4, "{status:#?}");
    for meeting in &meetings {
        rig.same_as_server(&client, *meeting).await;
    }
    // Commands go down, events come up and are acknowledged once they are stored.
    for meeting in &meetings {
        ok(client.command(*meeting, add_terminal("699")).await.unwrap());
        rig.same_as_server(&client, *meeting).await;
    }
    rig.whole().await;
    let begun = Instant::now();
    while rig.servers.iter().any(|server| server.dump().events_waiting > 0) {
        assert!(begun.elapsed() < PATIENCE, "{}", rig.log());
        tokio::time::sleep(LOOK).await;
    }
    let stats: Vec<_> = rig.servers.iter().map(remeet::simulator::Running::stats).collect();
    assert!(stats[0].relayed > stats[2].relayed && stats[2].relayed > 0 && stats[1].relayed == 0, "{stats:?}");
    assert!(stats.iter().all(|stats| stats.stale_executed == 0 && stats.attaches > 0), "{stats:?}");
    // Operators name a server below another like any.
    let said = said(&rig.remeet(&["recover", "--server", "4", "--dry-run"]));
    assert!(said.contains("server 4") && said.contains("1 in control"), "{said}");
}

async fn what_is_below_a_cut_relay_is_unreachable_and_comes_back(backing: &Backing) {
    let mut rig = tree(backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = meetings(&rig, &client).await;
    // Server 3 does not reach server 4.
    rig.servers[2].control(Request::CutRelay { on: true }).await.unwrap();
    until_linked(&rig, [true, true, true, false]).await;
    until_state(&rig, &client, meetings[3], MeetingState::Unreachable).await;
    for meeting in &meetings[..3] {
        ok(client.command(*meeting, add_terminal("698")).await.unwrap());
    }
    let away = client.command(meetings[3], add_terminal("698")).await.unwrap();
    assert_eq!(away.code, ErrorCode::UNREACHABLE, "{away:?}");
    rig.servers[2].control(Request::CutRelay { on: false }).await.unwrap();
    rig.whole().await;
    until_state(&rig, &client, meetings[3], MeetingState::InMeeting).await;
    // The topmost is gone, and with it all that is reached through it; nothing is concluded from that.
    rig.servers[0].control(Request::CutLink { on: true }).await.unwrap();
    until_linked(&rig, [false; 4]).await;
    for meeting in &meetings {
        until_state(&rig, &client, *meeting, MeetingState::Unreachable).await;
    }
    rig.servers[0].control(Request::CutLink { on: false }).await.unwrap();
    rig.whole().await;
    for meeting in &meetings {
        until_state(&rig, &client, *meeting, MeetingState::InMeeting).await;
        ok(client.command(*meeting, add_terminal("697")).await.unwrap());
        rig.same_as_server(&client, *meeting).await;
    }
}

over_both! {
    servers_below_others_are_taken_back_like_all
    what_is_below_a_cut_relay_is_unreachable_and_comes_back
}

/// Design §6: one server hangs, and only its legs wait; here one that its parent relays for.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_below_another_holds_up_neither_parent_nor_sibling() {
    let mut rig = tree(&Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = meetings(&rig, &client).await;
    rig.kill();
    rig.servers[1].control(Request::Hang { on: true }).await.unwrap();
    rig.start();
    let status = until_linked(&rig, [true, false, true, true]).await;
    assert_ne!(link(&status, 2), LinkState::Attached);
    for meeting in [meetings[0], meetings[2], meetings[3]] {
        until_state(&rig, &client, meeting, MeetingState::InMeeting).await;
        ok(client.command(meeting, add_terminal("696")).await.unwrap());
    }
    rig.servers[1].control(Request::Hang { on: false }).await.unwrap();
    rig.whole().await;
    rig.same_as_server(&client, meetings[1]).await;
}

/// Its tables are lost: its legs are over, and nobody else's; its parent's boot id says nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn rule_8_a_new_life_of_a_server_below_another_ends_its_own_legs_only() {
    let mut rig = tree(&Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = meetings(&rig, &client).await;
    rig.servers[2].control(Request::Restart { mode: RestartMode::NewBoot, down_ms: 50 }).await.unwrap();
    until_state(&rig, &client, meetings[2], MeetingState::Ended).await;
    rig.whole().await;
    for place in [0, 1, 3] {
        until_state(&rig, &client, meetings[place], MeetingState::InMeeting).await;
        rig.same_as_server(&client, meetings[place]).await;
    }
    // And one that keeps them goes on, though its answers of the life before are ignored.
    rig.servers[3].control(Request::Restart { mode: RestartMode::SameBoot, down_ms: 50 }).await.unwrap();
    rig.whole().await;
    ok(client.command(meetings[3], add_terminal("695")).await.unwrap());
}

/// A parent speaks only for itself and relays for those that are listed under it.
#[tokio::test(flavor = "multi_thread")]
async fn rule_16_a_server_that_speaks_in_the_name_of_one_that_is_not_below_it_is_not_believed() {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let own = rig.meeting(&client, 2, 1).await;
    rig.servers[0].control(Request::Misbehave { kind: Misbehaviour::ForeignSource }).await.unwrap();
    let breaches = |status: &Status| status.servers[0].misbehaviour.get("identity").copied().unwrap_or(0);
    let status = rig.until("a breach counted", |status| breaches(status) > 0).await;
    assert!(status.servers[1].misbehaviour.is_empty(), "{status:#?}");
    assert_eq!(status.servers[1].link, LinkState::Attached, "{status:#?}");
    ok(client.command(own, add_terminal("694")).await.unwrap());
    rig.servers[0].control(Request::Misbehave { kind: Misbehaviour::None }).await.unwrap();
    rig.whole().await;
}

/// Its inventory has no end: nothing is concluded from what is absent, and nobody else waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_below_another_without_its_complete_mark_concludes_nothing() {
    let mut rig = tree(&Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = meetings(&rig, &client).await;
    rig.kill();
    rig.servers[3].control(Request::Misbehave { kind: Misbehaviour::EndlessPages }).await.unwrap();
    rig.start();
    let answers = |status: &Status| status.servers[3].misbehaviour.get("answer").copied().unwrap_or(0);
    let status = rig.until("counted", |status| answers(status) > 0).await;
    assert!(status.servers[2].misbehaviour.is_empty(), "its parent only relays: {status:#?}");
    for meeting in &meetings[..3] {
        until_state(&rig, &client, *meeting, MeetingState::InMeeting).await;
    }
    let stored = client.get(meetings[3]).await.unwrap().view.info;
    assert!(!matches!(stored.state, MeetingState::Ended | MeetingState::InMeeting), "{stored:?}");
    rig.servers[3].control(Request::Misbehave { kind: Misbehaviour::None }).await.unwrap();
    rig.whole().await;
    until_state(&rig, &client, meetings[3], MeetingState::InMeeting).await;
}

/// What comes through relays from one whose token is not the newest is refused by the server that it is for.
#[tokio::test(flavor = "multi_thread")]
async fn rule_2_an_older_token_is_refused_by_a_server_below_another() {
    let mut rig = tree(&Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 4, 1).await;
    // Another scheduler's term, which our database does not know.
    Scheduler::attached(rig.servers[3].address, token(7, 7)).await;
    ok(client.command(meeting, add_terminal("671")).await.unwrap());
    let stats = rig.servers[3].stats();
    assert!(stats.stale_refused > 0, "{stats:?}");
    assert_eq!(stats.stale_executed, 0, "{stats:?}");
    let status = rig.whole().await;
    assert_eq!(status.term.as_ref().map(|term| term.epoch.0), Some(8), "{status:#?}");
    ok(client.command(meeting, ClientOp::End).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_may_have_legs_on_a_parent_and_on_those_below_it() {
    let mut rig = tree(&Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = MeetingId(uuid::Uuid::now_v7());
    ok(client.command(meeting, create(meeting, 1)).await.unwrap());
    for (leg, server) in [(1, 2), (2, 3), (3, 4)] {
        let op = ClientOp::AddLeg(remeet_protocol::message::AddLeg { leg, server: ServerId(server) });
        ok(client.command(meeting, op).await.unwrap());
    }
    ok(client.command(meeting, ClientOp::Start).await.unwrap());
    let relay_cut = Instant::now();
    rig.servers[2].control(Request::CutRelay { on: true }).await.unwrap();
    until_state(&rig, &client, meeting, MeetingState::Partly).await;
    assert!(relay_cut.elapsed() < Duration::from_secs(20));
    rig.servers[2].control(Request::CutRelay { on: false }).await.unwrap();
    rig.whole().await;
    until_state(&rig, &client, meeting, MeetingState::InMeeting).await;
    ok(client.command(meeting, ClientOp::End).await.unwrap());
}
