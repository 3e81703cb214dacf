//! Goal: whatever a peer sends or a file holds, the daemon says so clearly, counts it, harms no other
//! server or meeting, and loses nothing. Method: `remeet run` with one good and one bad server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_recovery::refused;
use crate::daemon_rig::{Backing, CONTROL, OPERATOR, PATIENCE, Rig, VIEW, add_terminal, ok};
use remeet::cms::client::{Client, ClientSettings};
use remeet::simulator::{Misbehaviour, Request};
use remeet_protocol::message::{AdoptOrphan, ClientOp, MeetingState};
use remeet_protocol::wire::Text;
use remeet_protocol::{ErrorCode, LegId, MeetingId, ServerId};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server that misbehaves while the daemon recovers; then it behaves again.
async fn misbehaves(kind: Misbehaviour) {
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
    // It is said what is wrong.
    rig.until("the trouble is shown", |status| {
        let server = &status.servers[1];
        server.last_error.is_some() || !server.misbehaviour.is_empty() || server.legs.quarantined > 0
    })
    .await;
    // Nothing is lost.
    let stored = client.get(bad).await.unwrap().view;
    assert_ne!(stored.info.state, MeetingState::Ended, "{:?}", stored.info);
    rig.servers[1].control(Request::Misbehave { kind: Misbehaviour::None }).await.unwrap();
    rig.until("recovered", |status| status.servers[1].legs.in_meeting == 1).await;
    ok(client.command(bad, add_terminal("641")).await.unwrap());
}

macro_rules! misbehaviours {
    ($($name:ident $kind:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            misbehaves(Misbehaviour::$kind).await;
        }
    )*};
}

misbehaviours! {
    a_server_that_sends_garbage_harms_no_other Garbage;
    a_server_with_wrong_crcs_harms_no_other WrongCrc;
    a_server_of_another_version_harms_no_other WrongVersion;
    a_server_with_lying_lengths_harms_no_other LyingLength;
    a_server_that_cuts_its_packets_harms_no_other CutPacket;
    a_server_with_lying_counts_harms_no_other LyingCount;
    a_server_with_endless_pages_harms_no_other EndlessPages;
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
    rig.same_as_server(&client, meeting).await;
    ok(client.command(meeting, add_terminal("640")).await.unwrap());
    assert_eq!(rig.servers[1].dump().legs.len(), 1, "the other one still runs what it runs");
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
    let secret = move |sql: &'static str| {
        let database = database.clone();
        async move {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&database);
            let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
            let done = sqlx::query(sql).bind(wrong.to_string()).execute(&mut connection).await.unwrap();
            assert_eq!(done.rows_affected(), 1);
            sqlx::Connection::close(connection).await.unwrap();
        }
    };
    // Each byte turned around: done twice, the secret is as it was.
    secret("UPDATE recovery_keys SET secret = unhex(replace(replace(replace(hex(secret), '0', 'x'), 'F', '0'), 'x', 'F')) WHERE meeting = ?").await;
    rig.start();
    let status = rig.until("a bad key", |status| status.alarms.iter().any(|alarm| alarm.kind == "bad-key")).await;
    assert_eq!(status.totals.in_meeting, 1, "the other one is recovered: {status:#?}");
    rig.same_as_server(&client, right).await;
    let answer = client.get(wrong).await.unwrap().view.info;
    assert!(answer.recovering && answer.state != MeetingState::Ended, "{answer:?}");
    rig.kill();
    secret("UPDATE recovery_keys SET secret = unhex(replace(replace(replace(hex(secret), '0', 'x'), 'F', '0'), 'x', 'F')) WHERE meeting = ?").await;
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
async fn a_client_that_sends_garbage_is_cut_and_the_others_are_served() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 1).await;
    for bytes in [vec![0xA5; 4_096], vec![0; 60], b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".repeat(4)] {
        let mut stream = TcpStream::connect(rig.clients_at).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // Cut, or ended with what it had to say; but it ends.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection ends");
    }
    ok(client.command(meeting, add_terminal("640")).await.unwrap());
    rig.same_as_server(&client, meeting).await;
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
