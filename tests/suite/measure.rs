//! Measurements, not tests of behaviour: what the lease, the pair and recovery under faults take at the size that is
//! asked. Run one by hand, on a quiet machine:
//!
//! ```text
//! cargo test --release --no-run
//! scripts/with-servers cargo test --release --test suite -- --ignored --nocapture measure::
//! ```
//!
//! Each prints a line for every run and the median last; what it asserts is what must be true however slow the machine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use crate::daemon_rig::{Backing, CONTROL, PATIENCE, Rig, add_terminal, create, ok};
use crate::pair_rig::{Node, nothing_stale, on_postgres};
use crate::servers::{PrivatePostgres, PrivateRedis, redis_url};
use crate::store_fixture::{Fixture, Kind, content, info, leg_id, new_leg, present, terminal};
use futures_util::stream::{self, StreamExt};
use remeet::cms::client::Client;
use remeet::model::{RecoveryKey, StoredState};
use remeet::ops::status::{Status, Trigger};
use remeet::simulator::{Misbehaviour, Request};
use remeet::store::{Unit, Write, open_cache};
use remeet_protocol::message::ClientOp;
use remeet_protocol::{DomainId, LegId, MeetingId, Secret};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SERVERS: u32 = 8;
const MEETINGS: u64 = 1_000;
const TERMINALS: u32 = 10;
/// Commands that clients have under way while a population is made.
const AT_ONCE: usize = 100;

/// Meetings on all servers in turn, started, with terminals.
async fn populate(client: &Client, meetings: u64, terminals: u32) -> Vec<MeetingId> {
    let one = async |place: u64| {
        let meeting = MeetingId(uuid::Uuid::now_v7());
        let server = 1 + u32::try_from(place % u64::from(SERVERS)).unwrap();
        ok(client.command(meeting, create(meeting, server)).await.unwrap());
        ok(client.command(meeting, ClientOp::Start).await.unwrap());
        for number in 1..=terminals {
            ok(client.command(meeting, add_terminal(&format!("6{number:03}"))).await.unwrap());
        }
        meeting
    };
    stream::iter(0..meetings).map(one).buffer_unordered(AT_ONCE).collect().await
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints runs, their median and their range.
fn tell(what: &str, unit: &str, values: &[f64]) {
    let shown: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    println!("{what}: median {:.2} {unit}, {low:.2} to {high:.2}, runs {}", median(values), shown.join(" "));
}

fn all_in_control(status: &Status) -> bool {
    status.term.is_some() && status.totals.in_meeting == MEETINGS
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run by hand on a quiet machine"]
async fn a_standby_controls_1000_meetings_after_the_active_one_died_or_was_stopped() {
    let Some((_database, backing)) = on_postgres() else { return };
    let rig = Rig::new(SERVERS, &backing).await;
    let lease_ms = 6_000;
    let mut active = Node::with_lease(&rig, "first", &backing, lease_ms);
    active.commands(&rig).await;
    populate(&active.client().await, MEETINGS, TERMINALS).await;
    let mut standby = Node::with_lease(&rig, "second", &backing, lease_ms);
    for signal in ["KILL", "STOP"] {
        let mut runs = Vec::new();
        for _ in 0..3 {
            standby.stands_by(&rig).await;
            active.signal(signal);
            let gone = Instant::now();
            standby.until(&rig, "in control of all", all_in_control).await;
            runs.push(gone.elapsed().as_secs_f64());
            standby.commands(&rig).await;
            if signal == "STOP" {
                active.signal("CONT");
            } else {
                active.kill();
                active.start_again(&rig);
            }
            std::mem::swap(&mut active, &mut standby);
        }
        tell(&format!("{MEETINGS} meetings in control after SIG{signal}, lease 6 s (asked: 8 s)"), "s", &runs);
    }
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run by hand on a quiet machine"]
async fn a_restart_on_the_same_node_controls_1000_meetings_whatever_its_lease() {
    let Some((_database, backing)) = on_postgres() else { return };
    let rig = Rig::new(SERVERS, &backing).await;
    let mut node = Node::with_lease(&rig, "first", &backing, 60_000);
    node.commands(&rig).await;
    populate(&node.client().await, MEETINGS, TERMINALS).await;
    let mut runs = Vec::new();
    for _ in 0..5 {
        node.commands(&rig).await;
        node.kill();
        let began = Instant::now();
        node.start_again(&rig);
        node.until(&rig, "in control of all", all_in_control).await;
        runs.push(began.elapsed().as_secs_f64());
    }
    tell("restart on the same node, lease 60 s (asked: no wait)", "s", &runs);
}

/// The store's writers at full speed, each write checking the term; renewals on the lease's own connection.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run by hand on a quiet machine"]
async fn renewals_under_full_back_fill_load() {
    let Some(fixture) = Fixture::new(Kind::Postgres).await else { return };
    let legs: u32 = 2_000;
    let new: Vec<Unit> =
        (0..legs).map(|n| Unit::one(Write::NewLeg(Box::new(new_leg(n, StoredState::InMeeting))))).collect();
    fixture.write(new).await;
    let (over, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for writer in 0..2_u32 {
        let (store, token) = (Arc::clone(&fixture.store), fixture.token);
        let (over, rows) = (Arc::clone(&over), Arc::clone(&rows));
        writers.push(tokio::spawn(async move {
            for revision in (1..).step_by(20) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let unit = |n: u32| {
                    let mut changes = vec![present(revision, info("changed"))];
                    changes.extend((1..=10).map(|t| present(revision + t, terminal(&format!("6{t:03}"), "room"))));
                    Unit::one(content(leg_id(n), changes, None, false))
                };
                let units: Vec<Unit> = (0..legs).filter(|n| n % 2 == writer).map(unit).collect();
                store.write(token, &units).await.unwrap();
                rows.fetch_add(11 * units.len() as u64, Ordering::Relaxed);
            }
        }));
    }
    let lease = Duration::from_secs(6);
    let mut took = Vec::new();
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    while began.elapsed() < Duration::from_secs(60) {
        tick.tick().await;
        let asked = Instant::now();
        fixture.store.renew(fixture.token, lease).await.unwrap();
        took.push(asked.elapsed().as_secs_f64() * 1_000.0);
    }
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    println!(
        "{} renewals under {:.0} rows/s: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms (asked: p99 below 600 ms)",
        took.len(),
        rows.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    fixture.end().await;
}

/// Clients command all the time; whatever was answered `ok` must stand in the database and at the servers.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run by hand on a quiet machine"]
async fn a_database_that_was_away_for_60_s() {
    let (Some(mut postgres), Some(cache)) = (PrivatePostgres::start(), redis_url()) else { return };
    let mut rig = Rig::new(SERVERS, &Backing { store: postgres.url(), cache }).await;
    rig.start();
    rig.whole().await;
    let client = Arc::new(rig.client(CONTROL).await);
    let meetings = populate(&client, 80, 2).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut commanders = Vec::new();
    for (lane, meeting) in meetings.iter().copied().enumerate() {
        let (client, over) = (Arc::clone(&client), Arc::clone(&over));
        commanders.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let number = format!("7{lane:02}{number:04}");
                let told = client.command_within(meeting, add_terminal(&number), Duration::from_secs(120)).await;
                if told.is_ok_and(|answer| answer.code.is_ok()) {
                    acknowledged.push((meeting, number));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            acknowledged
        }));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    postgres.kill();
    tokio::time::sleep(Duration::from_secs(60)).await;
    postgres.start_again();
    let back = Instant::now();
    rig.until("writing again", |status| status.store.healthy && status.totals.in_meeting == 80).await;
    let probe = MeetingId(uuid::Uuid::now_v7());
    ok(client.command(probe, create(probe, 1)).await.unwrap());
    println!(
        "recovered {:.2} s after the database's return from 60 s away (asked: 10 s)",
        back.elapsed().as_secs_f64()
    );
    over.store(true, Ordering::Relaxed);
    let mut acknowledged: Vec<(MeetingId, String)> = Vec::new();
    for commander in commanders {
        acknowledged.extend(commander.await.unwrap());
    }
    rig.whole().await;
    rig.kill();
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let mut lost = 0;
    for meeting in &meetings {
        let view = rig.same_as_server(&client, *meeting).await;
        let there: BTreeSet<String> = view.records.iter().map(|(_, change)| format!("{:?}", change.key())).collect();
        let theirs = acknowledged.iter().filter(|(of, _)| of == meeting);
        lost += theirs.filter(|(_, number)| !there.iter().any(|key| key.contains(number.as_str()))).count();
    }
    println!("{} writes acknowledged, {lost} lost (asked: 0)", acknowledged.len());
    assert_eq!(lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run by hand on a quiet machine"]
async fn one_server_of_8_in_trouble_and_the_others_time_to_control() {
    let Some((_database, backing)) = on_postgres() else { return };
    let mut rig = Rig::new(SERVERS, &backing).await;
    rig.start();
    rig.whole().await;
    populate(&rig.client(CONTROL).await, MEETINGS, TERMINALS).await;
    rig.whole().await;
    let others = MEETINGS - MEETINGS / u64::from(SERVERS);
    type Fault = (&'static str, fn(bool) -> Request);
    let faults: [Fault; 4] = [
        ("hung", |on| Request::Hang { on }),
        ("sending garbage", |on| Request::Misbehave { kind: misbehaviour(on, Misbehaviour::Garbage) }),
        ("with endless pages", |on| Request::Misbehave { kind: misbehaviour(on, Misbehaviour::EndlessPages) }),
        ("with 10 s latency", |on| Request::SetLatency { ms: if on { 10_000 } else { 0 } }),
    ];
    for (what, fault) in faults {
        let (mut free, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let mut pair = Vec::new();
            for on in [false, true] {
                rig.kill();
                rig.servers[7].control(fault(on)).await.unwrap();
                // Counted at the servers: what is asked of the daemon meanwhile would cost it time.
                let accepted =
                    |rig: &Rig| rig.servers[..7].iter().map(|server| server.stats().takeovers_accepted).sum::<u64>();
                let before = accepted(&rig);
                let began = Instant::now();
                rig.start();
                while accepted(&rig) < before + others {
                    assert!(began.elapsed() < PATIENCE, "{}", rig.log());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                pair.push(began.elapsed().as_secs_f64() * 1_000.0);
                rig.servers[7].control(fault(false)).await.unwrap();
                rig.kill();
                rig.start();
                rig.whole().await;
            }
            free.push(pair[0]);
            ratios.push(pair[1] / pair[0]);
        }
        tell(&format!("7 of 8 servers in control, from the spawn, none {what}"), "ms", &free);
        tell(&format!("one of 8 {what}: the others' time against that (asked: 1.15 at most)"), "times", &ratios);
    }
}

fn misbehaviour(on: bool, kind: Misbehaviour) -> Misbehaviour {
    if on { kind } else { Misbehaviour::None }
}

async fn links_cut(rig: &Rig) {
    for server in &rig.servers {
        server.control(Request::CutLink { on: true }).await.unwrap();
    }
    rig.until("cut", |status| status.totals.in_meeting == 0).await;
}

/// Not ignored: it takes seconds. Rule 10 while the cache loses everything in the middle of rounds that use it.
#[tokio::test(flavor = "multi_thread")]
async fn rule_10_a_cache_wiped_in_the_middle_of_rounds_gives_no_key_that_is_not_verified() {
    let (Some(database), Some(redis)) = (crate::servers::fresh_database(), PrivateRedis::start()) else { return };
    let mut rig = Rig::new(SERVERS, &Backing { store: database.url.clone(), cache: redis.url() }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = populate(&client, 160, 1).await;
    rig.whole().await;
    for turn in 0..5 {
        links_cut(&rig).await;
        for (place, server) in rig.servers.iter().enumerate() {
            server.control(Request::CutLink { on: false }).await.unwrap();
            if place == turn {
                redis.ask("FLUSHALL");
            }
        }
        rig.whole().await;
    }
    // And a cache that holds nothing but keys of other generations, none of them right.
    links_cut(&rig).await;
    redis.ask("FLUSHALL");
    let epoch = rig.status().await.unwrap().term.unwrap().epoch;
    let planted = |(place, meeting): (usize, &MeetingId)| {
        let generation = if place % 2 == 0 { 0 } else { 9 };
        let leg = LegId { meeting: *meeting, leg: 0 };
        RecoveryKey {
            leg,
            generation,
            secret: Secret::new([9; 16]),
            domain: DomainId(1),
            ..new_leg(1, StoredState::InMeeting).key
        }
    };
    let planted: Vec<RecoveryKey> = meetings.iter().enumerate().map(planted).collect();
    open_cache(&redis.url()).unwrap().put_keys(epoch, &planted).await.unwrap();
    for server in &rig.servers {
        server.control(Request::CutLink { on: false }).await.unwrap();
    }
    rig.whole().await;
    let status = rig.until("all back", |status| status.totals.in_meeting == 160).await;
    let round = status.rounds.iter().find(|round| round.trigger == Trigger::LinkRestored).unwrap();
    println!("{round:?}");
    assert_eq!(rig.servers.iter().map(|server| server.stats().bad_keys).sum::<u64>(), 0, "{status:#?}");
    assert!(rig.servers.iter().all(|server| server.stats().takeovers_refused == 0));
    assert!(
        status.alarms.iter().any(|alarm| alarm.kind == "cache-disagrees"),
        "the planted keys were seen: {status:#?}"
    );
    assert!(round.keys_from_database > 0, "what was wiped comes from the database: {round:?}");
    for meeting in &meetings {
        let leg = LegId { meeting: *meeting, leg: 0 };
        assert!(rig.servers.iter().any(|server| server.dump().legs.iter().any(|found| found.leg == leg)));
    }
}
