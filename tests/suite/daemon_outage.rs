//! Goal: what the scheduler stands on may go away in mid-run and come back: nothing that was acknowledged is
//! lost, nothing is answered that is not so, and recovery goes on. Method: `remeet run` as a process, a
//! PostgreSQL and a Redis of the test's own, killed or frozen.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, PATIENCE, Rig, add_terminal, create, ok};
use crate::servers::{PrivatePostgres, PrivateRedis, fresh_database, redis_url};
use remeet::ops::status::{LinkState, Phase, Trigger};
use remeet::simulator::{Request, Script};
use remeet_protocol::message::{ClientOp, MeetingState};
use remeet_protocol::{LegId, MeetingId};
use std::time::{Duration, Instant};

/// Rule 18: what is not in trouble itself goes on within this.
const GOES_ON: Duration = Duration::from_secs(30);

fn has_terminal(rig: &Rig, server: usize, meeting: MeetingId, number: &str) -> bool {
    let legs = rig.servers[server].dump().legs;
    let leg = legs.into_iter().find(|found| found.leg == LegId { meeting, leg: 0 }).expect("its server runs it");
    leg.records
        .iter()
        .any(|found| matches!(&found.record, remeet_protocol::Record::Terminal(row) if row.number.as_str() == number))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_lost_in_mid_run_puts_commands_off_and_loses_nothing() {
    let (Some(mut postgres), Some(cache)) = (PrivatePostgres::start(), redis_url()) else { return };
    let mut rig = Rig::new(2, &Backing { store: postgres.url(), cache }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let near = rig.meeting(&client, 1, 2).await;
    let far = rig.meeting(&client, 2, 2).await;
    let changing = rig.meeting(&client, 1, 3).await;
    ok(client.command(near, add_terminal("640")).await.unwrap());
    rig.steady().await;
    let executed = |rig: &Rig| rig.servers.iter().map(|server| server.stats().commands_executed).sum::<u64>();
    let before = executed(&rig);

    postgres.kill();
    // Acknowledged commands stand; new ones are put off: not answered, and not sent to a server either.
    let created = MeetingId(uuid::Uuid::now_v7());
    let put_off = async {
        tokio::join!(
            client.command(near, add_terminal("641")),
            client.command(far, ClientOp::End),
            client.command(created, create(created, 1)),
        )
    };
    tokio::pin!(put_off);
    let outage = async {
        let status = rig.until("waiting", |status| status.phase == Phase::WaitingForDatabase).await;
        assert!(!status.store.healthy && status.store.last_error.is_some(), "{:?}", status.store);
        assert!(status.counters["store_failures"] > 0, "counted: {:?}", status.counters);
        let printed = crate::daemon_rig::said(&rig.remeet(&["status"]));
        assert!(printed.contains("! the database does not answer"), "{printed}");
        let hasty = client.command_within(near, add_terminal("642"), Duration::from_secs(1)).await;
        assert!(!hasty.is_ok_and(|answer| answer.code.is_ok()), "it is not said to be done");
        // Meanwhile meetings change, and a link comes back: its server cannot be compared with the store.
        let script = Script { seed: 9, fraction: 0.0, meetings: Some(vec![changing]), kinds: Vec::new() };
        rig.servers[0].control(Request::Change(script)).await.unwrap();
        rig.servers[1].control(Request::CutLink { on: true }).await.unwrap();
        rig.until("cut", |status| status.servers[1].link != LinkState::Attached).await;
        rig.servers[1].control(Request::CutLink { on: false }).await.unwrap();
        rig.until("dialled again", |status| matches!(status.servers[1].link, LinkState::Up | LinkState::Attached))
            .await;
        assert_eq!(executed(&rig), before, "nothing is commanded that is not stored");
    };
    tokio::select! {
        answers = &mut put_off => panic!("answered without a database: {answers:?}"),
        () = outage => {}
    }
    assert!(rig.log().contains("what waits is kept and tried again"), "{}", rig.log());

    postgres.start_again();
    let (added, ended, made) = tokio::time::timeout(PATIENCE, put_off).await.expect("answered once it is back");
    ok(added.unwrap());
    ok(ended.unwrap());
    ok(made.unwrap());
    let status = rig.whole().await;
    assert!(status.store.healthy && status.phase == Phase::Steady, "{status:#?}");
    assert!(has_terminal(&rig, 0, near, "640") && has_terminal(&rig, 0, near, "641"));
    rig.same_as_server(&client, near).await;
    rig.same_as_server(&client, changing).await;
    assert_eq!(client.get(far).await.unwrap().view.info.state, MeetingState::Ended);
    assert_eq!(client.get(created).await.unwrap().view.info.state, MeetingState::Created);
    // What stands in the database is what a new process finds.
    rig.kill();
    rig.start();
    let status = rig.whole().await;
    assert_eq!((status.totals.in_meeting, status.totals.orphans, status.totals.pending), (2, 0, 0), "{status:#?}");
    rig.same_as_server(&client, near).await;
    rig.same_as_server(&client, changing).await;
    assert_eq!(client.get(far).await.unwrap().view.info.state, MeetingState::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_freezes_in_mid_recovery_is_waited_for_and_recovery_completes() {
    let (Some(postgres), Some(cache)) = (PrivatePostgres::start(), redis_url()) else { return };
    let mut rig = Rig::new(1, &Backing { store: postgres.url(), cache }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let mut meetings = Vec::new();
    for _ in 0..6 {
        meetings.push(rig.meeting(&client, 1, 2).await);
    }
    rig.steady().await;
    rig.kill();
    rig.servers[0].control(Request::SetLatency { ms: 150 }).await.unwrap();
    rig.start();
    rig.until("a term", |status| status.term.is_some()).await;
    postgres.freeze();
    rig.until("waiting", |status| status.phase == Phase::WaitingForDatabase || !status.store.healthy).await;
    rig.servers[0].control(Request::SetLatency { ms: 0 }).await.unwrap();
    postgres.thaw();
    let status = rig.whole().await;
    assert_eq!(status.totals.in_meeting, 6, "{status:#?}");
    for meeting in meetings {
        rig.same_as_server(&client, meeting).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_freezes_in_mid_run_stops_neither_commands_nor_recovery() {
    let (Some(database), Some(redis)) = (fresh_database(), PrivateRedis::start()) else { return };
    let mut rig = Rig::new(2, &Backing { store: database.url.clone(), cache: redis.url() }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let near = rig.meeting(&client, 1, 2).await;
    let far = rig.meeting(&client, 2, 2).await;
    rig.steady().await;

    redis.freeze();
    // Commands go on at once: no answer waits for the cache.
    let begun = Instant::now();
    for number in 0..5 {
        ok(client.command(near, add_terminal(&format!("65{number}"))).await.unwrap());
    }
    assert!(begun.elapsed() < GOES_ON, "{:?}", begun.elapsed());
    let status = rig.until("its failure is shown", |status| !status.cache.healthy).await;
    assert!(status.cache.last_error.is_some() && status.counters["cache_failures"] > 0, "{:?}", status.cache);
    assert!(status.store.healthy && !rig.log().contains("panicked"));
    // So does recovery: after a lost link with keys from the database ...
    let begun = Instant::now();
    rig.servers[1].control(Request::CutLink { on: true }).await.unwrap();
    rig.until("cut", |status| status.servers[1].link != LinkState::Attached).await;
    rig.servers[1].control(Request::CutLink { on: false }).await.unwrap();
    let status = rig
        .until("recovered", |status| {
            status.servers[1].legs.in_meeting == 1
                && status.rounds.iter().any(|round| {
                    round.trigger == Trigger::LinkRestored && round.ended_at_ms.is_some() && round.recovered == 1
                })
        })
        .await;
    assert!(begun.elapsed() < GOES_ON, "{:?}", begun.elapsed());
    let round = status.rounds.iter().find(|round| round.trigger == Trigger::LinkRestored).unwrap();
    assert_eq!((round.keys_from_cache, round.keys_from_database), (0, 1), "a frozen cache is a miss");
    ok(client.command(far, add_terminal("660")).await.unwrap());
    // ... and after a restart.
    rig.kill();
    let begun = Instant::now();
    rig.start();
    rig.until("recovered", |status| status.totals.in_meeting == 2 && status.phase == Phase::Steady).await;
    assert!(begun.elapsed() < GOES_ON, "{:?}", begun.elapsed());
    ok(client.command(near, add_terminal("661")).await.unwrap());
    rig.same_as_server(&client, near).await;
    rig.same_as_server(&client, far).await;
    rig.until("its failure is shown", |status| !status.cache.healthy).await;
    rig.until_logged("the cache is brought up to date when it answers").await;

    redis.thaw();
    rig.until("the cache answers", |status| status.cache.healthy && status.cache.waiting == 0).await;
    rig.whole().await;
    // What it missed is in it: no key of a restored link comes from the database.
    rig.servers[0].control(Request::CutLink { on: true }).await.unwrap();
    rig.until("cut", |status| status.servers[0].link != LinkState::Attached).await;
    rig.servers[0].control(Request::CutLink { on: false }).await.unwrap();
    let from_cache = |status: &remeet::ops::status::Status| {
        let round = status.rounds.iter().find(|round| round.trigger == Trigger::LinkRestored);
        round.is_some_and(|round| round.keys_from_cache == 1 && round.keys_from_database == 0)
    };
    rig.until("its key comes from the cache", from_cache).await;
    rig.whole().await;
    rig.same_as_server(&client, near).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_that_ends_while_redis_may_only_be_read_is_forgotten_once_it_may_be_written() {
    let Some(redis) = PrivateRedis::start() else { return };
    let mut rig = Rig::new(1, &Backing { store: "sqlite:remeet.db".to_owned(), cache: redis.url() }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 2).await;
    let compared = |status: &remeet::ops::status::Status| {
        let round = status.rounds.iter().find(|round| round.trigger == Trigger::Reconcile);
        round.map(|round| round.began_at_ms)
    };
    let before = compared(&rig.steady().await);
    let names = || ["key", "leg"].map(|kind| redis.ask(&format!("EXISTS remeet:{{1}}:{kind}:{meeting}:0")));
    assert_eq!(names(), [":1", ":1"], "its secret and its status are cached");

    assert_eq!(redis.ask("REPLICAOF 127.0.0.1 1"), "+OK");
    ok(client.command(meeting, ClientOp::End).await.unwrap());
    let status = rig
        .until("asked again and again", |status| !status.cache.healthy && status.counters["cache_failures"] >= 3)
        .await;
    assert!(status.cache.waiting > 0, "it is said that something waits: {:?}", status.cache);
    assert_eq!(compared(&status), before, "a cache that may only be read is not taken for one that is back");
    assert_eq!(names(), [":1", ":1"]);

    assert_eq!(redis.ask("REPLICAOF NO ONE"), "+OK");
    rig.until("forgotten", |status| status.cache.healthy && status.cache.waiting == 0).await;
    assert_eq!(names(), [":0", ":0"]);
}
