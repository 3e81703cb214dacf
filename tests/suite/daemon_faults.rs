//! Goal: what design §6 says must come of each fault does come of it, in the daemon itself. Method: `remeet run` as a
//! process, with a proxy that stalls, cuts, delays and corrupts between it and a server, Redis or PostgreSQL, or with
//! these told to be in trouble.
//!
//! Every row of the table, and the tests that show it with real processes. What only a chosen order of happenings
//! shows is left to the simulation in virtual time (`tests/world`, docs/testing.md).
//!
//! | fault | shown by |
//! |---|---|
//! | crash at any step, also during recovery | `daemon_recovery::killed_in_the_middle_of_recovery_…`, `scripts/crash-loop`; `world::crash`, `tests/world/rounds.rs` at every output |
//! | a future dropped at any await | `store_postgres::a_dropped_call_…`, `store_sqlite::a_dropped_call_…` |
//! | packets lost, doubled, reordered, delayed | simulation, `session_network`; delayed: here |
//! | garbage, lying counts, endless pages, wrong CRC | `daemon_bad_input` (a test each); corrupted on the way: here |
//! | one server hangs | `daemon_legs::a_leg_whose_server_hangs_…`, `daemon_relay::a_server_that_hangs_…`; 10 s latency: here; `measure::one_server_of_8_in_trouble_…` |
//! | partition scheduler–server | here: stalled, cut |
//! | partition leader–database | `daemon_pair::rule_5_…` |
//! | two leaders, a pause in mid-send | `daemon_pair::rule_3_…`, `daemon_pair::a_writer_that_is_frozen_…`, `scripts/crash-loop --kind pause` |
//! | an old leader's start in flight | `world` (its moment is chosen there), `simulator_fencing` |
//! | commit outcome unknown | here: connections cut under load; simulation, `store_settle` |
//! | database regresses | `daemon_pair::a_database_that_went_back_…` |
//! | database down at start | `daemon_recovery::a_database_that_is_down_at_start_…` |
//! | database lost, frozen, read-only | `daemon_outage`; read-only: here |
//! | cache stale, evicted, empty, LOADING, READONLY, gone | here: LOADING, out of memory, cut, corrupted; `measure::rule_10_a_cache_wiped_…`, `daemon_outage::a_redis_that_freezes_…`, `daemon_outage::a_meeting_that_ends_while_redis_may_only_be_read_…`, `cache_traps` |
//! | wall clock jumps | a scheduler's: nothing decides by it; the database's: simulation, `store_lease` |
//! | server restarts in mid-takeover | `daemon_relay::rule_8_…`, `session_server`, simulation |
//! | meeting ends during takeover | `tests/world/rounds.rs`, `core_answers` |
//! | terminal joins, leaves, changes during back-fill | `core_content`, simulation, `scripts/crash-loop` |
//! | two servers claim one leg | `daemon_bad_input::rule_16_a_server_that_claims_anothers_meeting_…` |
//! | slow client, expired cursor | `daemon_events::rule_15_a_slow_reader_…` |

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, PATIENCE, Rig, add_terminal, ok};
use crate::fault_proxy::{FaultProxy, Way, place_of};
use crate::servers::{PrivatePostgres, PrivateRedis, fresh_database, psql, redis_url};
use remeet::ops::status::{LinkState, Phase, Status, Trigger};
use remeet_protocol::MeetingId;
use remeet_protocol::message::MeetingState;
use std::time::{Duration, Instant};

/// Two servers, the second behind a proxy, with a meeting each.
async fn behind_a_proxy() -> (Rig, FaultProxy, [MeetingId; 2]) {
    let backing = Backing::embedded();
    let mut rig = Rig::new(2, &backing).await;
    let proxy = FaultProxy::to(rig.servers[1].address.to_string()).await;
    rig.through.insert(2, proxy.address);
    rig.write_config("remeet.toml", "state", &backing, rig.clients_at, 6_000);
    rig.environment("REMEET_LINK__KEEP_ALIVE_MS", "300");
    rig.environment("REMEET_LINK__RECONNECT_MAX_MS", "500");
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = [rig.meeting(&client, 1, 2).await, rig.meeting(&client, 2, 2).await];
    (rig, proxy, meetings)
}

/// The first server's meeting is commanded, and quickly; the other's is not lost.
async fn the_other_goes_on(rig: &Rig, meetings: [MeetingId; 2], number: &str) {
    let client = rig.client(CONTROL).await;
    let begun = Instant::now();
    ok(client.command(meetings[0], add_terminal(number)).await.unwrap());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let info = client.get(meetings[1]).await.unwrap().view.info;
    assert_ne!(info.state, MeetingState::Ended, "{info:?}");
}

async fn both_are_whole(rig: &Rig, meetings: [MeetingId; 2], number: &str) -> Status {
    let status = rig.whole().await;
    let client = rig.client(CONTROL).await;
    for meeting in meetings {
        ok(client.command(meeting, add_terminal(number)).await.unwrap());
        rig.same_as_server(&client, meeting).await;
    }
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_scheduler_server_stalled_or_cut_its_legs_are_unreachable_and_come_back() {
    let (rig, proxy, meetings) = behind_a_proxy().await;
    for (way, number) in [(Way::Stall, "641"), (Way::Refuse, "642")] {
        proxy.set(way);
        let status = rig.until("given up", |status| status.servers[1].link != LinkState::Attached).await;
        assert_eq!(status.servers[0].link, LinkState::Attached, "{way:?}");
        the_other_goes_on(&rig, meetings, number).await;
        proxy.set(Way::Pass);
        both_are_whole(&rig, meetings, &format!("{number}1")).await;
    }
    for number in ["651", "652", "653"] {
        proxy.cut();
        both_are_whole(&rig, meetings, number).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_corrupted_on_the_way_are_counted_have_no_effect_and_cost_time_only() {
    let (rig, proxy, meetings) = behind_a_proxy().await;
    proxy.set(Way::Corrupt);
    let stream = |status: &Status| status.servers[1].misbehaviour.get("stream").copied().unwrap_or(0);
    let status = rig.until("counted", |status| stream(status) > 2).await;
    assert!(status.servers[0].misbehaviour.is_empty() && proxy.corrupted() > 2, "{status:#?}");
    the_other_goes_on(&rig, meetings, "641").await;
    proxy.set(Way::Pass);
    both_are_whole(&rig, meetings, "642").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_with_10_s_latency_holds_up_no_other() {
    let (mut rig, proxy, meetings) = behind_a_proxy().await;
    rig.kill();
    proxy.set(Way::Delay(Duration::from_secs(10)));
    rig.start();
    let begun = Instant::now();
    rig.until("the other in control", |status| status.servers[0].legs.in_meeting == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    the_other_goes_on(&rig, meetings, "641").await;
    proxy.set(Way::Pass);
    proxy.cut();
    both_are_whole(&rig, meetings, "642").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_outcome_unknown_connections_of_the_database_cut_under_load_lose_and_double_nothing() {
    let (Some(database), Some(cache)) = (fresh_database(), redis_url()) else { return };
    let proxy = FaultProxy::to(place_of(&database.url)).await;
    let mut rig = Rig::new(2, &Backing { store: proxy.url(&database.url), cache }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = [rig.meeting(&client, 1, 1).await, rig.meeting(&client, 2, 1).await];
    let load = async {
        for number in 0..200 {
            ok(client.command(meetings[number % 2], add_terminal(&format!("7{number:03}"))).await.unwrap());
        }
    };
    let faults = async {
        for way in [Way::Pass, Way::Corrupt, Way::Pass, Way::Corrupt, Way::Pass, Way::Pass] {
            proxy.set(way);
            proxy.cut();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        proxy.set(Way::Pass);
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(load, faults) }).await.expect("answered in time");
    rig.whole().await;
    for meeting in meetings {
        let view = rig.same_as_server(&client, meeting).await;
        let called =
            view.records.iter().filter(|(_, change)| format!("{:?}", change.key()).contains("Terminal(")).count();
        assert_eq!(called, 101, "each command has had one effect");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_may_only_be_read_puts_commands_off_until_it_writes_again() {
    let (Some(postgres), Some(cache)) = (PrivatePostgres::start(), redis_url()) else { return };
    let mut rig = Rig::new(1, &Backing { store: postgres.url(), cache }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 1).await;
    let read_only = |on: bool| {
        let set = if on { "SET default_transaction_read_only = on" } else { "RESET default_transaction_read_only" };
        // One transaction each: ALTER SYSTEM must not be in a block.
        for sql in [&format!("ALTER SYSTEM {set}"), "SELECT pg_reload_conf()"] {
            psql(&postgres.url(), &format!("SET default_transaction_read_only = off; {sql}"))
                .or_else(|_| psql(&postgres.url(), sql))
                .unwrap();
        }
    };
    read_only(true);
    // A renewal or a command meets it. The server's sessions hear of it one after the other, some after the first
    // commands perhaps.
    let mut done = 0;
    while client
        .command_within(meeting, add_terminal(&format!("{}", 650 + done)), Duration::from_secs(2))
        .await
        .is_ok_and(|answer| answer.code.is_ok())
    {
        done += 1;
        assert!(done < 500, "commands are said to be done");
    }
    // The error stays, whatever a read has answered since.
    let said = |error: &String| error.contains("read-only");
    rig.until("said", |status| status.store.last_error.as_ref().is_some_and(said)).await;
    read_only(false);
    ok(client.command(meeting, add_terminal("642")).await.unwrap());
    let status = rig.whole().await;
    assert!(status.store.healthy && status.phase == Phase::Steady);
    rig.same_as_server(&client, meeting).await;
}

/// Whatever the cache is, commands and recovery go on, and afterwards it holds what it should.
async fn the_cache_is_made_good(rig: &Rig, redis: &PrivateRedis, meetings: [MeetingId; 2], number: &str) {
    both_are_whole(rig, meetings, number).await;
    let names = |pattern: &str| redis.ask(&format!("EVAL \"return #redis.call('KEYS','{pattern}')\" 0"));
    let begun = Instant::now();
    while (names("remeet:*:key:*").as_str(), names("remeet:*:leg:*").as_str()) != (":2", ":2") {
        assert!(begun.elapsed() < PATIENCE, "{} {}", names("remeet:*:key:*"), names("remeet:*:leg:*"));
        tokio::time::sleep(crate::daemon_rig::LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_cut_corrupted_out_of_memory_or_loading_is_a_miss_and_is_made_good() {
    let (Some(database), Some(mut redis)) = (fresh_database(), PrivateRedis::start_with(&["--save", "3600 1000000"]))
    else {
        return;
    };
    let proxy = FaultProxy::to(redis.address()).await;
    let mut rig = Rig::new(2, &Backing { store: database.url.clone(), cache: proxy.url(&redis.url()) }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = [rig.meeting(&client, 1, 2).await, rig.meeting(&client, 2, 2).await];
    the_cache_is_made_good(&rig, &redis, meetings, "640").await;
    let commanded = async |number: &str| {
        for meeting in meetings {
            ok(client.command(meeting, add_terminal(number)).await.unwrap());
        }
    };
    for (way, number) in [(Way::Corrupt, "641"), (Way::Refuse, "642"), (Way::Stall, "643")] {
        proxy.set(way);
        proxy.cut();
        commanded(number).await;
        rig.until("said", |status| !status.cache.healthy).await;
        proxy.set(Way::Pass);
        proxy.cut();
        the_cache_is_made_good(&rig, &redis, meetings, &format!("{number}1")).await;
    }
    // Out of memory: writes are refused.
    assert_eq!(redis.ask("CONFIG SET maxmemory 1"), "+OK");
    commanded("644").await;
    // It is healthy again as soon as it answers a read, which can be before the status is looked at; and what replaces a
    // leg's whole content is not refused, because it frees memory first.
    rig.until("said", |status| status.cache.last_error.as_ref().is_some_and(|error| error.contains("OOM"))).await;
    assert_eq!(redis.ask("CONFIG SET maxmemory 0"), "+OK");
    the_cache_is_made_good(&rig, &redis, meetings, "6441").await;
    // Loading: it answers, and gives nothing yet.
    assert_eq!(redis.ask("SAVE"), "+OK");
    redis.kill();
    redis.slow_loading();
    redis.launch();
    rig.kill();
    rig.start();
    let status = both_are_whole(&rig, meetings, "645").await;
    let round = status.rounds.iter().find(|round| round.trigger == Trigger::Restart).unwrap();
    assert_eq!((round.keys_from_cache, round.keys_from_database), (0, 2), "rule 10: {round:?}");
    the_cache_is_made_good(&rig, &redis, meetings, "646").await;
}
