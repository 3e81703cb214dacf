//! Goal: whatever a peer sends or a file holds, the daemon says so clearly, counts it, harms no other
//! server or meeting, and loses nothing. Method: `remeet run` with one good and one bad server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_recovery::refused;
use crate::daemon_rig::{Backing, CONTROL, OPERATOR, Rig, VIEW, add_terminal, ok};
use remeet::cms::client::{Client, ClientSettings};
use remeet::ops::status::Status;
use remeet::simulator::{Misbehaviour, Request};
use remeet_protocol::message::{AdoptOrphan, ClientOp, MeetingState};
use remeet_protocol::wire::Text;
use remeet_protocol::{ErrorCode, LegId, MeetingId, ServerId};
use std::time::Duration;

/// Where a server's misbehaviour is counted.
#[derive(Clone, Copy)]
enum Counted {
    /// Of that server, by kind.
    OfServer(&'static str),
    /// Among all counters.
    Named(&'static str),
}

impl Counted {
    fn is_in(self, status: &Status) -> bool {
        let server = &status.servers[1];
        let count = match self {
            Counted::OfServer(kind) => server.misbehaviour.get(kind),
            Counted::Named(name) => status.counters.get(name),
        };
        count.is_some_and(|count| *count > 0)
    }
}

/// A server that misbehaves while the daemon recovers; then it behaves again. It is counted, and logged in
/// words.
async fn misbehaves(kind: Misbehaviour, counted: Counted, logged: &str) {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let good = rig.meeting(&client, 1, 2).await;
    let bad = rig.meeting(&client, 2, 2).await;
    rig.kill();
    rig.servers[1].control(Request::Misbehave { kind }).await.unwrap();
    rig.start();
    // The other server is not harmed.
    rig.until("the good server's meeting is in control", |status| status.servers[0].legs.in_meeting == 1).await;
    rig.same_as_server(&client, good).await;
    ok(client.command(good, add_terminal("640")).await.unwrap());
    // It is said what is wrong: in the status, by number, and in the log, in words.
    rig.until("counted and shown", |status| counted.is_in(status) && status.servers[1].last_error.is_some()).await;
    rig.until_logged(logged).await;
    let status = rig.status().await.unwrap();
    assert!(status.servers[0].misbehaviour.is_empty() && status.servers[0].last_error.is_none(), "{status:#?}");
    // Nothing is lost.
    let stored = client.get(bad).await.unwrap().view;
    assert_ne!(stored.info.state, MeetingState::Ended, "{:?}", stored.info);
    rig.servers[1].control(Request::Misbehave { kind: Misbehaviour::None }).await.unwrap();
    rig.until("recovered", |status| status.servers[1].legs.in_meeting == 1).await;
    ok(client.command(bad, add_terminal("641")).await.unwrap());
}

macro_rules! misbehaviours {
    ($($name:ident $kind:ident $counted:expr, $logged:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            misbehaves(Misbehaviour::$kind, $counted, $logged).await;
        }
    )*};
}

misbehaviours! {
    a_server_that_sends_garbage_harms_no_other Garbage Counted::OfServer("stream"), "stream: ";
    a_server_with_wrong_crcs_harms_no_other WrongCrc Counted::OfServer("stream"), "wrong CRC: the packet says";
    a_server_of_another_version_harms_no_other WrongVersion Counted::OfServer("stream"), "packet version 7.0";
    a_server_with_lying_lengths_harms_no_other LyingLength Counted::OfServer("stream"), "a body of 65535 bytes";
    a_server_that_cuts_its_packets_harms_no_other CutPacket Counted::Named("links_cut_inside_a_packet"),
        "bytes into a packet";
    a_server_with_lying_counts_harms_no_other LyingCount Counted::OfServer("answer"), "answer: ";
    a_server_with_endless_pages_harms_no_other EndlessPages Counted::OfServer("answer"), "answer: ";
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_types_and_unreadable_bodies_are_counted_and_skipped() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 1).await;
    rig.kill();
    rig.servers[0].control(Request::Misbehave { kind: Misbehaviour::UnknownTypes }).await.unwrap();
    rig.start();
    rig.until("in control in spite of it", |status| status.totals.in_meeting == 1).await;
    rig.same_as_server(&client, meeting).await;
    rig.until("counted", |status| status.counters["unknown_types"] > 0).await;
    rig.until_logged("a packet of the unknown type").await;
    rig.until("counted by kind", |status| status.servers[0].misbehaviour.get("malformed") > Some(&0)).await;
    rig.until_logged("malformed: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_quarantines_the_back_fill_and_keeps_control() {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let good = rig.meeting(&client, 1, 2).await;
    let bad = rig.meeting(&client, 2, 2).await;
    rig.kill();
    rig.servers[1].control(Request::Misbehave { kind: Misbehaviour::WrongDigest }).await.unwrap();
    rig.start();
    let status = rig.until("quarantined", |status| status.servers[1].legs.quarantined == 1).await;
    assert_eq!(status.servers[1].legs.in_meeting, 1, "control goes on");
    assert!(status.alarms.iter().any(|alarm| alarm.kind == "quarantine"), "{:?}", status.alarms);
    assert!(status.counters["alarms_quarantine"] > 0 && rig.log().contains("kind=Quarantine"), "counted and logged");
    rig.same_as_server(&client, good).await;
    ok(client.command(bad, add_terminal("641")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_a_server_that_claims_anothers_meeting_is_a_conflict_and_nothing_is_killed() {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 2).await;
    rig.kill();
    rig.servers[1].control(Request::CreateForeign { meeting: Some(meeting), terminals: 1, count: None }).await.unwrap();
    rig.start();
    let status = rig.until("a conflict", |status| status.alarms.iter().any(|alarm| alarm.kind == "conflict")).await;
    assert!(status.alarms.iter().any(|alarm| alarm.text.contains("another server is stored as the leg's")));
    assert!(status.counters["alarms_conflict"] > 0, "counted: {:?}", status.counters);
    assert!(rig.log().contains("another server is stored as the leg's"), "logged: {}", rig.log());
    rig.same_as_server(&client, meeting).await;
    ok(client.command(meeting, add_terminal("640")).await.unwrap());
    assert_eq!(rig.servers[1].dump().legs.len(), 1, "the other one still runs what it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_a_server_that_is_not_the_one_configured_is_not_commanded() {
    let backing = Backing::embedded();
    let mut rig = Rig::new(2, &backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = [rig.meeting(&client, 1, 1).await, rig.meeting(&client, 2, 1).await];
    rig.kill();
    rig.swap_addresses(&backing);
    rig.start();
    let status = rig
        .until("both are counted", |status| {
            status.servers.iter().all(|server| server.misbehaviour.get("identity") > Some(&0))
        })
        .await;
    assert_eq!(status.totals.in_meeting, 0, "nothing is taken over from a stranger: {status:#?}");
    rig.until_logged("identity: ").await;
    for meeting in meetings {
        let info = client.get(meeting).await.unwrap().view.info;
        assert_ne!(info.state, MeetingState::Ended, "and nothing is concluded from what it does not have: {info:?}");
    }
    rig.kill();
    rig.swap_addresses(&backing);
    rig.start();
    let status = rig.whole().await;
    assert_eq!((status.totals.in_meeting, status.totals.orphans), (2, 0), "{status:#?}");
    for meeting in meetings {
        rig.same_as_server(&client, meeting).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_with_a_wrong_proof_is_told_and_the_others_are_recovered() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let wrong = rig.meeting(&client, 1, 1).await;
    let right = rig.meeting(&client, 1, 1).await;
    rig.kill();
    let database = rig.path("state/remeet.db");
    // Each bit turned around: done twice, the secret is as it was.
    let turn_around = || {
        let database = database.clone();
        async move {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&database);
            let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
            let read = sqlx::query_scalar("SELECT secret FROM recovery_keys WHERE meeting = ?").bind(wrong.to_string());
            let secret: Vec<u8> = read.fetch_one(&mut connection).await.unwrap();
            let turned: Vec<u8> = secret.iter().map(|byte| !byte).collect();
            let write = sqlx::query("UPDATE recovery_keys SET secret = ? WHERE meeting = ?");
            let done = write.bind(turned).bind(wrong.to_string()).execute(&mut connection).await.unwrap();
            assert_eq!(done.rows_affected(), 1);
            sqlx::Connection::close(connection).await.unwrap();
        }
    };
    turn_around().await;
    rig.start();
    let status = rig.until("a bad key", |status| status.alarms.iter().any(|alarm| alarm.kind == "bad-key")).await;
    assert_eq!(status.totals.in_meeting, 1, "the other one is recovered: {status:#?}");
    assert!(status.counters["alarms_bad-key"] > 0, "counted: {:?}", status.counters);
    assert!(rig.log().contains("kind=BadKey"), "logged: {}", rig.log());
    rig.same_as_server(&client, right).await;
    let answer = client.get(wrong).await.unwrap().view.info;
    assert!(answer.recovering && answer.state != MeetingState::Ended, "{answer:?}");
    rig.kill();
    turn_around().await;
    rig.start();
    rig.until("both", |status| status.totals.in_meeting == 2).await;
    rig.same_as_server(&client, wrong).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_a_client_does_only_what_its_rights_allow() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let (viewer, controller) = (rig.client(VIEW).await, rig.client(CONTROL).await);
    let meeting = rig.meeting(&controller, 1, 1).await;
    refused(&viewer.command(meeting, ClientOp::End).await.unwrap(), ErrorCode::NOT_ALLOWED);
    refused(&controller.command(meeting, ClientOp::Mark(true)).await.unwrap(), ErrorCode::NOT_ALLOWED);
    assert_eq!(viewer.get(meeting).await.unwrap().view.info.state, MeetingState::InMeeting);
    let name = Text::new("somebody else".to_owned()).unwrap();
    let settings =
        ClientSettings { deadline: Duration::from_secs(5), ..ClientSettings::new(rig.clients_at, CONTROL, name) };
    let stranger = Client::connect(settings).await;
    assert!(stranger.is_err(), "a client that is not in the configuration is turned away");
    rig.until("counted", |status| status.counters.get("clients_refused").is_some_and(|count| *count > 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_is_kept_until_an_operator_adopts_or_ends_it() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.servers[0].control(Request::CreateForeign { meeting: None, terminals: 2, count: Some(2) }).await.unwrap();
    rig.start();
    let status = rig.whole().await;
    assert_eq!(status.totals.orphans, 2);
    let orphans = rig.servers[0].dump().legs;
    let operator = rig.client(OPERATOR).await;
    let adopt = |place: usize, end| {
        let orphan = &orphans[place];
        ClientOp::Adopt(AdoptOrphan { server: ServerId(1), handle: orphan.handle, leg: orphan.leg, end })
    };
    refused(
        &rig.client(CONTROL).await.command(MeetingId::default(), adopt(0, false)).await.unwrap(),
        ErrorCode::NOT_ALLOWED,
    );
    let adopted = operator.command(MeetingId::default(), adopt(0, false)).await.unwrap();
    ok(adopted.clone());
    rig.same_as_server(&operator, adopted.meeting).await;
    ok(operator.command(adopted.meeting, add_terminal("640")).await.unwrap());
    ok(operator.command(MeetingId::default(), adopt(1, true)).await.unwrap());
    let live = rig.servers[0].dump().legs;
    assert_eq!(live.iter().filter(|leg| leg.leg == LegId { meeting: adopted.meeting, leg: 0 }).count(), 1);
    rig.kill();
    rig.start();
    let status = rig.whole().await;
    assert_eq!(
        (status.totals.in_meeting, status.totals.orphans),
        (1, 0),
        "the adopted one is recovered like any other"
    );
    rig.same_as_server(&operator, adopted.meeting).await;
}
