//! Goal: what an operator asks for at night is done, and is told in words. Method: `remeet run` as a
//! process, and `remeet recover`, `lift-quarantine`, `troubled` and the others as the operator types them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_recovery::refused;
use crate::daemon_rig::{Backing, CONTROL, Rig, VIEW, add_terminal, ok, over_both, said};
use remeet::ops::status::{LinkState, RoundReport, Status, Trigger};
use remeet::simulator::{Misbehaviour, Request};
use remeet_protocol::message::ClientOp;
use remeet_protocol::{ErrorCode, MeetingId, ServerId};

/// The servers that the last comparison covered.
fn compared(status: &Status) -> Vec<ServerId> {
    let round = status.rounds.iter().find(|round| round.trigger == Trigger::Reconcile);
    round.map(|round| round.servers.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn recover_with_a_server_compares_just_that_server() {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    assert!(compared(&rig.whole().await).is_empty(), "nothing was compared yet");
    let output = rig.remeet(&["recover", "--server", "2"]);
    assert!(output.status.success() && said(&output).contains("being compared: server 2;"), "{}", said(&output));
    rig.until("server 2 is compared", |status| compared(status) == [ServerId(2)]).await;
    let output = rig.remeet(&["recover"]);
    assert!(output.status.success() && said(&output).contains("server 1, 2;"), "{}", said(&output));
    rig.until("both are compared", |status| compared(status) == [ServerId(1), ServerId(2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_compared_again_each_interval_without_being_asked() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.environment("REMEET_RECOVERY__RECONCILE_INTERVAL_S", "1");
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 1).await;
    let round_after = |status: &Status, since: u64| {
        let of = |round: &&RoundReport| round.trigger == Trigger::Reconcile && round.began_at_ms > since;
        status.rounds.iter().find(of).filter(|round| round.ended_at_ms.is_some() && round.recovered == 1).cloned()
    };
    let status = rig.until("compared", |status| round_after(status, 0).is_some()).await;
    let first = round_after(&status, 0).unwrap();
    rig.until("compared again", |status| round_after(status, first.began_at_ms).is_some()).await;
    rig.same_as_server(&client, meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recover_names_the_servers_that_there_are_and_those_that_cannot_be_compared_now() {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let output = rig.remeet(&["recover", "--server", "9"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no server 9 is in the configuration; there are 1, 2"), "{}", said(&output));
    rig.servers[0].control(Request::CutLink { on: true }).await.unwrap();
    rig.until("cut", |status| status.servers[0].link != LinkState::Attached).await;
    let output = rig.remeet(&["recover", "--server", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("not connected, compared as soon as it is: server 1"), "{}", said(&output));
    let output = rig.remeet(&["recover"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("being compared: server 2;") && said(&output).contains("as it is: server 1"));
    assert!(rig.log().contains("the link is down"), "{}", rig.log());
}

async fn an_orphan_is_adopted_with_what_troubled_prints_and_a_lost_server_s_meetings_are_named(backing: &Backing) {
    let mut rig = Rig::new(1, backing).await;
    rig.servers[0].control(Request::CreateForeign { meeting: None, terminals: 1, count: None }).await.unwrap();
    rig.start();
    rig.whole().await;
    let printed = said(&rig.remeet(&["status"]));
    assert!(printed.contains("0 of 0 live meetings in control\n"), "an orphan is nobody's here: {printed}");
    assert!(printed.contains("! 1 orphan kept untouched: remeet troubled shows how to adopt or end"), "{printed}");
    let troubled = said(&rig.remeet(&["troubled"]));
    let line = troubled.lines().find(|line| line.ends_with("orphan")).unwrap_or_else(|| panic!("{troubled}"));
    let [leg, server, handle, "orphan"] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert!(troubled.contains("adopt --server SERVER --handle HANDLE --leg MEETING/LEG"), "{troubled}");
    let json = said(&rig.remeet(&["troubled", "--json"]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["handle"].to_string(), handle);
    let connect = rig.clients_at.to_string();
    let client = |action: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_remeet"));
        command.args(["client", "--connect", &connect, "--id", "1", "--name", "client 1"]).args(action);
        command.output().unwrap()
    };
    let adopt = ["adopt", "--server", server, "--handle", handle, "--leg", leg];
    let adopted = client(&adopt);
    assert!(adopted.status.success(), "{}", said(&adopted));
    let other = ["adopt", "--server", server, "--handle", "999", "--leg", "01a21572-af5d-76fa-a8ae-e44c1a9d1a73/0"];
    let other = client(&other);
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("`remeet troubled` lists them"), "{}", said(&other));
    assert_eq!(said(&rig.remeet(&["troubled"])), "no meeting is in trouble\n");
    assert_eq!(said(&rig.remeet(&["troubled", "--json"])), "");
    // Marks. The foreign meeting has got an id of this domain's own.
    let meeting = said(&adopted).trim_end().rsplit(' ').next().unwrap().to_owned();
    let meeting = meeting.as_str();
    assert!(said(&rig.remeet(&["mark", meeting])).contains("will be recovered first"));
    assert!(said(&rig.remeet(&["mark", meeting, "--undo"])).contains("the mark is taken away"));
    let unknown = rig.remeet(&["mark", "01a21572-af5d-76fa-a8ae-e44c1a9d1a73"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("01a21572-af5d-76fa-a8ae-e44c1a9d1a73: no such meeting"), "{}", said(&unknown));
    // A server is lost: what cannot be commanded is named, and since when.
    rig.servers[0].control(Request::CutLink { on: true }).await.unwrap();
    rig.until("cut", |status| status.servers[0].link == LinkState::Down).await;
    let troubled = said(&rig.remeet(&["troubled"]));
    assert!(troubled.lines().any(|line| line.contains(meeting) && line.ends_with("unreachable")), "{troubled}");
    assert!(troubled.contains("unreachable: its server does not answer; the meeting goes on"), "{troubled}");
    let printed = said(&rig.remeet(&["status"]));
    assert!(printed.contains("! server 1 server 1 down for ") && printed.contains(", 1 meeting: "), "{printed}");
    assert!(printed.contains("0 of 1 live meeting in control"), "{printed}");
}

/// The reason that the embedded store holds for the only leg.
async fn stored_quarantine(rig: &Rig) -> Option<String> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(rig.path("state/remeet.db"));
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    let reason = sqlx::query_scalar("SELECT quarantine FROM legs").fetch_one(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn lift_quarantine_pulls_the_leg_whole_and_answers_once_that_it_adds_up_is_stored() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 2).await;
    let leg = meeting.to_string();
    let lift = |leg: &str| rig.remeet(&["lift-quarantine", leg]);
    let output = lift(&leg);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("it is not quarantined: see remeet troubled"), "{}", said(&output));
    // A digest that disagrees after a pull since the mark, and after one of everything.
    rig.kill();
    rig.servers[0].control(Request::Misbehave { kind: Misbehaviour::WrongDigest }).await.unwrap();
    rig.start();
    let lift = |leg: &str| rig.remeet(&["lift-quarantine", leg]);
    rig.until("quarantined", |status| status.totals.quarantined == 1).await;
    rig.steady().await;
    assert!(stored_quarantine(&rig).await.is_some_and(|reason| reason.contains("after a full pull")));
    let troubled = rig.remeet(&["troubled"]);
    assert!(said(&troubled).contains(&leg) && said(&troubled).contains("quarantined"), "{}", said(&troubled));
    // The server still lies: it is pulled whole, and the operator hears what came of it.
    let pulls = rig.servers[0].stats().full_pulls;
    let output = lift(&leg);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("it stays quarantined: after a full pull"), "{}", said(&output));
    assert_eq!(rig.servers[0].stats().full_pulls, pulls + 1, "pulled whole once");
    assert!(stored_quarantine(&rig).await.is_some(), "the note stands for as long as the rows do not add up");
    // It does not any more.
    rig.servers[0].control(Request::Misbehave { kind: Misbehaviour::None }).await.unwrap();
    let output = lift(&leg);
    assert!(output.status.success() && said(&output).contains("the quarantine is lifted"), "{}", said(&output));
    assert_eq!(stored_quarantine(&rig).await, None, "stored before it is answered");
    assert_eq!(rig.servers[0].stats().full_pulls, pulls + 2);
    rig.same_as_server(&client, meeting).await;
    let troubled = rig.remeet(&["troubled"]);
    assert!(said(&troubled).contains("no meeting is in trouble"), "{}", said(&troubled));
    // And over a restart it stays so, without a transfer.
    rig.kill();
    rig.start();
    assert_eq!(rig.whole().await.totals.quarantined, 0);
    assert_eq!(rig.servers[0].stats().full_pulls, pulls + 2);
    rig.same_as_server(&client, meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_is_not_lifted_blindly() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 2).await;
    let unknown = rig.remeet(&["lift-quarantine", &MeetingId(uuid::Uuid::now_v7()).to_string()]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("no such leg"), "{}", said(&unknown));
    rig.kill();
    rig.servers[0].control(Request::Misbehave { kind: Misbehaviour::WrongDigest }).await.unwrap();
    rig.start();
    rig.until("quarantined", |status| status.totals.quarantined == 1).await;
    rig.steady().await;
    // Its server hangs: whoever waits is told when the link is given up.
    rig.servers[0].control(Request::Hang { on: true }).await.unwrap();
    let hung = rig.remeet(&["lift-quarantine", &meeting.to_string()]);
    assert_eq!(hung.status.code(), Some(1));
    assert!(said(&hung).contains("it is pulled whole"), "{}", said(&hung));
    let down = rig.remeet(&["lift-quarantine", &meeting.to_string()]);
    assert_eq!(down.status.code(), Some(1));
    assert!(said(&down).contains("it is pulled whole"), "{}", said(&down));
    assert!(stored_quarantine(&rig).await.is_some());
    // Taken over again, it is tried from the ground without being asked.
    rig.servers[0].control(Request::Misbehave { kind: Misbehaviour::None }).await.unwrap();
    rig.servers[0].control(Request::Hang { on: false }).await.unwrap();
    rig.until("lifted", |status| status.totals.in_meeting == 1 && status.totals.quarantined == 0).await;
    rig.same_as_server(&client, meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_what_a_client_may_not_do_is_refused_counted_and_logged() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let (viewer, controller) = (rig.client(VIEW).await, rig.client(CONTROL).await);
    let meeting = rig.meeting(&controller, 1, 1).await;
    assert!(!rig.steady().await.counters.contains_key("client_requests_not_allowed"));
    for op in [ClientOp::Start, ClientOp::End, add_terminal("640"), ClientOp::Mark(true)] {
        refused(&viewer.command(meeting, op).await.unwrap(), ErrorCode::NOT_ALLOWED);
    }
    refused(&controller.command(meeting, ClientOp::Mark(true)).await.unwrap(), ErrorCode::NOT_ALLOWED);
    let counted = |status: &Status| status.counters.get("client_requests_not_allowed") == Some(&5);
    rig.until("five are counted", counted).await;
    let json = rig.remeet(&["status", "--json"]);
    assert!(said(&json).contains("\"client_requests_not_allowed\":5"), "{}", said(&json));
    let log = rig.log();
    for wanted in ["client=3: end was refused", "mark was refused", "the client's rights do not cover it"] {
        assert!(log.contains(wanted) || log.contains(&wanted.replace("client=3: ", "")), "{wanted}: {log}");
    }
    assert!(log.contains("client=3") && log.contains("client=2"), "{log}");
    ok(controller.command(meeting, add_terminal("641")).await.unwrap());
    rig.same_as_server(&viewer, meeting).await;
}

over_both! {
    an_orphan_is_adopted_with_what_troubled_prints_and_a_lost_server_s_meetings_are_named
}
