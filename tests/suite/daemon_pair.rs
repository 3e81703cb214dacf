//! Goal: of two schedulers on one database one commands, the other is a warm standby that takes over when the first
//! dies, hangs, is cut off or hands over. Method: `remeet run` twice, as processes, with simulated servers that count
//! what they execute for a token that is not the newest.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, PATIENCE, Rig, add_terminal, ok, status_at, terminate};
use crate::pair_rig::{LEASE, Node, first_of_a_pair, nothing_stale, on_postgres};
use crate::servers::{PrivatePostgres, fresh_database, psql};
use crate::simulator_client::{Scheduler, token};
use crate::store_proxy::Proxy;
use futures_util::future::join_all;
use remeet::cms::client::{Client, ClientSettings, Notice};
use remeet::ops::operator::{OperatorRequest, ask};
use remeet::ops::status::{Phase, Status};
use remeet::recovery::lease::LeaseView;
use remeet_protocol::wire::Text;
use std::time::{Duration, Instant};

/// The first is killed: the second, which stood by, has everything within the lease and two seconds.
async fn takes_over(backing: &Backing) {
    let (rig, mut first) = first_of_a_pair(backing, 2).await;
    let client = first.client().await;
    let mut meetings = Vec::new();
    for place in 0..6 {
        meetings.push(rig.meeting(&client, 1 + place % 2, 2).await);
    }
    let second = Node::start(&rig, "second", backing);
    let standby = second.stands_by(&rig).await;
    let LeaseView::Standby { incumbent: Some(incumbent), .. } = &standby.lease else { panic!("{:?}", standby.lease) };
    assert!(incumbent.node.starts_with("first#"), "{incumbent:?}");
    assert_eq!(standby.term, None);
    let attaches: Vec<u64> = rig.servers.iter().map(|server| server.stats().attaches).collect();
    // Longer than a lease: the standby goes on standing by, and attaches to nothing.
    tokio::time::sleep(LEASE * 2).await;
    second.stands_by(&rig).await;
    first.commands(&rig).await;
    let still: Vec<u64> = rig.servers.iter().map(|server| server.stats().attaches).collect();
    assert_eq!(attaches, still, "a standby has no side effects");

    let killed = Instant::now();
    first.kill();
    let status = second.commands(&rig).await;
    let took = killed.elapsed();
    assert_eq!((status.totals.in_meeting, status.term.map(|term| term.epoch.0)), (6, Some(2)), "{status:#?}");
    println!("in command {took:?} after the kill, at a lease of {LEASE:?}");
    let client = second.client().await;
    for meeting in &meetings {
        rig.same_as_server(&client, *meeting).await;
    }
    ok(client.command(meetings[0], add_terminal("699")).await.unwrap());
    // The first comes back as the standby.
    first.start_again(&rig);
    first.stands_by(&rig).await;
    second.commands(&rig).await;
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_standby_takes_over_when_the_active_scheduler_dies_on_postgres_and_redis() {
    let Some((_database, backing)) = on_postgres() else { return };
    takes_over(&backing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_standby_takes_over_when_the_active_scheduler_dies_embedded() {
    let shared = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}/remeet.db", shared.path().display());
    takes_over(&Backing { store, cache: "memory:".to_owned() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_the_same_node_does_not_wait_for_its_own_lease() {
    let Some((_database, backing)) = on_postgres() else { return };
    let (rig, mut first) = first_of_a_pair(&backing, 1).await;
    let client = first.client().await;
    rig.meeting(&client, 1, 1).await;
    let second = Node::start(&rig, "second", &backing);
    second.stands_by(&rig).await;
    first.kill();
    first.start_again(&rig);
    // It has the term again before the standby could have: its lease was not waited for.
    let status = first.commands(&rig).await;
    assert_eq!(status.term.map(|term| term.epoch.0), Some(2), "{status:#?}");
    let waited = first.log(&rig).contains("standby: another node holds the term");
    assert!(!waited, "{}", first.log(&rig));
    second.stands_by(&rig).await;
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn step_down_hands_over_at_once_and_a_clean_end_does_too() {
    let Some((_database, backing)) = on_postgres() else { return };
    // Far longer than what follows takes, but for the time that one is held back after a step-down.
    const LONG: Duration = Duration::from_secs(8);
    let lease_ms = LONG.as_millis().try_into().unwrap();
    let rig = Rig::new(1, &backing).await;
    let first = Node::with_lease(&rig, "first", &backing, lease_ms);
    first.commands(&rig).await;
    let client = first.client().await;
    let meeting = rig.meeting(&client, 1, 1).await;
    let mut second = Node::with_lease(&rig, "second", &backing, lease_ms);
    second.stands_by(&rig).await;
    // A standby has nothing to hand over.
    let refused = ask(&second.socket, &OperatorRequest::StepDown).await.unwrap_err().to_string();
    assert!(refused.contains("standby"), "{refused}");

    let asked = Instant::now();
    ask(&first.socket, &OperatorRequest::StepDown).await.unwrap();
    second.until(&rig, "in a term", |status| status.term.is_some()).await;
    let took = asked.elapsed();
    println!("step-down: another term after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}, of a lease of {LONG:?}");
    second.commands(&rig).await;
    first.stands_by(&rig).await;
    ok(second.client().await.command(meeting, add_terminal("699")).await.unwrap());

    // A SIGTERM releases the lease as well, for one that is not held back any more after its own step-down.
    let free = |status: &Status| matches!(status.lease, LeaseView::Standby { held_back_ms: 0, .. });
    first.until(&rig, "free to ask", free).await;
    let child = second.child.take().unwrap();
    let asked = Instant::now();
    assert!(terminate(child).success());
    first.until(&rig, "in a term", |status| status.term.is_some()).await;
    println!("clean end: another term after {:?}", asked.elapsed());
    assert!(asked.elapsed() < LONG, "its lease was not waited for");
    first.commands(&rig).await;
    let client = first.client().await;
    rig.same_as_server(&client, meeting).await;
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hands_over_to_nobody_goes_on_after_a_lease() {
    let (rig, first) = first_of_a_pair(&Backing::embedded(), 1).await;
    let client = first.client().await;
    let meeting = rig.meeting(&client, 1, 1).await;
    ask(&first.socket, &OperatorRequest::StepDown).await.unwrap();
    let held_back = |status: &Status| {
        status.phase == Phase::Standby && matches!(status.lease, LeaseView::Standby { held_back_ms: 1.., .. })
    };
    first.until(&rig, "held back", held_back).await;
    let status = first.commands(&rig).await;
    assert_eq!((status.term.map(|term| term.epoch.0), status.totals.in_meeting), (Some(2), 1));
    rig.same_as_server(&client, meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_a_scheduler_that_was_stopped_and_goes_on_commands_nothing_and_stands_by() {
    let Some((_database, backing)) = on_postgres() else { return };
    let (rig, first) = first_of_a_pair(&backing, 1).await;
    let client = first.client().await;
    let meeting = rig.meeting(&client, 1, 1).await;
    let second = Node::start(&rig, "second", &backing);
    second.stands_by(&rig).await;
    first.signal("STOP");
    second.commands(&rig).await;
    let at_second = second.client().await;
    ok(at_second.command(meeting, add_terminal("671")).await.unwrap());
    first.signal("CONT");
    // Its client's command reaches nobody: it has no effect, whatever it is answered.
    let answer = client.command_within(meeting, add_terminal("666"), Duration::from_secs(2)).await;
    assert!(!matches!(&answer, Ok(answer) if answer.code.is_ok()), "{answer:?}");
    first.stands_by(&rig).await;
    rig.same_as_server(&at_second, meeting).await;
    assert_eq!(rig.servers[0].dump().legs[0].terminals, 2);
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_a_scheduler_cut_off_from_the_database_falls_silent_before_the_standby_begins() {
    let Some((database, backing)) = on_postgres() else { return };
    let proxy = Proxy::before(&database.url).await;
    let (rig, first) = first_of_a_pair(&Backing { store: proxy.url.clone(), cache: backing.cache.clone() }, 1).await;
    let client = first.client().await;
    let meeting = rig.meeting(&client, 1, 1).await;
    let second = Node::start(&rig, "second", &backing);
    second.stands_by(&rig).await;
    proxy.refuse(true);
    proxy.freeze_connections();
    let lapsed = first.until(&rig, "lapsed", |status| matches!(status.lease, LeaseView::Lapsed)).await;
    let alarm = lapsed.alarms.iter().find(|alarm| alarm.kind == "lease-lapsed").expect("an alarm says so");
    let status = second.commands(&rig).await;
    assert_eq!(status.totals.in_meeting, 1);
    // Both live on one machine, by one clock: the first was silent before the second could command.
    let began = status.term.unwrap().since_ms;
    assert!(alarm.at_ms <= began, "silent {} ms after the standby's term began", alarm.at_ms - began);
    println!("silent {} ms before the standby's term began", began - alarm.at_ms);
    ok(second.client().await.command(meeting, add_terminal("671")).await.unwrap());
    proxy.refuse(false);
    first.stands_by(&rig).await;
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_longer_than_a_lease_costs_no_term_if_nobody_takes_over() {
    let Some(database) = fresh_database() else { return };
    let proxy = Proxy::before(&database.url).await;
    let backing = Backing { store: proxy.url.clone(), cache: "memory:".to_owned() };
    let (rig, first) = first_of_a_pair(&backing, 1).await;
    let client = first.client().await;
    let meeting = rig.meeting(&client, 1, 1).await;
    proxy.refuse(true);
    proxy.freeze_connections();
    first.until(&rig, "lapsed", |status| matches!(status.lease, LeaseView::Lapsed)).await;
    // For longer than another lease its client commands all the time; none of it reaches the server.
    let reached = |rig: &Rig| {
        let stats = rig.servers[0].stats();
        (stats.commands_executed, stats.commands_refused, rig.servers[0].dump().legs[0].terminals)
    };
    let (before, lapsed, mut commands) = (reached(&rig), Instant::now(), 0);
    while lapsed.elapsed() < LEASE || commands < 12 {
        let batch = (0..4).map(|place| {
            let op = add_terminal(&format!("7{}", commands + place));
            client.command_within(meeting, op, Duration::from_millis(300))
        });
        for answer in join_all(batch).await {
            assert!(!matches!(&answer, Ok(answer) if answer.code.is_ok()), "{answer:?}");
            commands += 1;
        }
        let status = status_at(&first.socket).await.unwrap();
        assert!(matches!(status.lease, LeaseView::Lapsed), "after {commands} commands: {:?}", status.lease);
    }
    assert_eq!(reached(&rig), before, "after {commands} commands");
    proxy.refuse(false);
    let status = first.commands(&rig).await;
    assert_eq!(status.term.map(|term| term.epoch.0), Some(1), "the same term: {}", first.log(&rig));
    assert!(matches!(status.lease, LeaseView::Active { .. }));
    ok(client.command(meeting, add_terminal("671")).await.unwrap());
    rig.same_as_server(&client, meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_back_is_noticed_by_a_servers_higher_epoch_and_a_term_above_it_begins() {
    let Some((database, backing)) = on_postgres() else { return };
    let (rig, mut first) = first_of_a_pair(&backing, 1).await;
    let client = first.client().await;
    let meeting = rig.meeting(&client, 1, 1).await;
    for _ in 0..3 {
        first.kill();
        first.start_again(&rig);
        first.commands(&rig).await;
    }
    first.kill();
    // A failover to a copy that had missed the last grants.
    psql(&database.url, "UPDATE term SET epoch = 1; UPDATE lease SET epoch = 1").unwrap();
    first.start_again(&rig);
    let status = first.commands(&rig).await;
    assert_eq!(status.term.map(|term| term.epoch.0), Some(5), "above the 4 that the server knows: {status:#?}");
    assert_eq!(status.totals.in_meeting, 1);
    assert!(first.log(&rig).contains("has admitted another token"), "{}", first.log(&rig));
    assert!(status.alarms.iter().any(|alarm| alarm.kind == "database-went-back"), "{:#?}", status.alarms);
    let client = first.client().await;
    rig.same_as_server(&client, meeting).await;
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_a_token_that_the_database_has_lost_fences_a_conversation_and_a_term_above_it_begins() {
    let (rig, first) = first_of_a_pair(&Backing::embedded(), 1).await;
    let client = first.client().await;
    let meeting = rig.meeting(&client, 1, 1).await;
    // The term of a scheduler whose grant this database does not know, while the first is attached.
    Scheduler::attached(rig.servers[0].address, token(7, 7)).await;
    ok(client.command(meeting, add_terminal("671")).await.unwrap());
    let status = first.commands(&rig).await;
    assert_eq!(
        status.term.as_ref().map(|term| term.epoch.0),
        Some(8),
        "above the 7 that the server knows: {status:#?}"
    );
    assert!(status.alarms.iter().any(|alarm| alarm.kind == "database-went-back"), "{:#?}", status.alarms);
    let log = first.log(&rig);
    assert!(log.contains("its meetings are not commanded from here"), "noticed by what was refused: {log}");
    assert!(rig.servers[0].stats().stale_refused > 0);
    rig.same_as_server(&client, meeting).await;
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_frozen_under_load_does_not_keep_the_standby_from_its_term() {
    let Some(postgres) = PrivatePostgres::start() else { return };
    let backing = Backing { store: postgres.url(), cache: "memory:".to_owned() };
    let (rig, first) = first_of_a_pair(&backing, 1).await;
    let client = first.client().await;
    let mut meetings = Vec::new();
    for _ in 0..4 {
        meetings.push(rig.meeting(&client, 1, 1).await);
    }
    let second = Node::start(&rig, "second", &backing);
    second.stands_by(&rig).await;
    // Writes all the time, so that one is under way when it is stopped.
    let load = tokio::spawn(async move {
        for number in 0..100_000 {
            let meeting = meetings[number % meetings.len()];
            let _ = client.command_within(meeting, add_terminal(&format!("7{number}")), Duration::from_secs(1)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.signal("STOP");
    let stopped = Instant::now();
    second.until(&rig, "in a term", |status| status.term.is_some()).await;
    let took = stopped.elapsed();
    load.abort();
    println!("another term {took:?} after the stop");
    assert!(took < LEASE + Duration::from_secs(2), "{took:?}\n{}", second.log(&rig));
    second.commands(&rig).await;
    first.signal("CONT");
    first.stands_by(&rig).await;
    nothing_stale(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_both_finds_the_one_that_commands_and_misses_nothing_over_a_failover() {
    let Some((_database, backing)) = on_postgres() else { return };
    let (rig, mut first) = first_of_a_pair(&backing, 1).await;
    let second = Node::start(&rig, "second", &backing);
    second.stands_by(&rig).await;
    // The standby's address stands first: it is passed over.
    let name = Text::new(format!("client {CONTROL}")).unwrap();
    let settings = ClientSettings {
        others: vec![first.clients_at],
        deadline: PATIENCE,
        ..ClientSettings::new(second.clients_at, CONTROL, name)
    };
    let client = Client::connect(settings).await.unwrap();
    let before = rig.meeting(&client, 1, 1).await;
    // One subscribes at the standby, and hears nothing of what the first does.
    let at_standby = second.client().await;
    let mut told = at_standby.subscribe(None).await.unwrap();
    let snapshot = told.next().await.unwrap();
    assert!(matches!(&snapshot, Notice::Snapshot { meetings, .. } if meetings.len() == 1), "{snapshot:?}");
    let after = rig.meeting(&client, 1, 1).await;
    // A command at the standby is put off, not carried out.
    let put_off = at_standby.command_within(before, add_terminal("666"), Duration::from_millis(500)).await;
    assert!(put_off.is_err(), "{put_off:?}");

    first.kill();
    ok(client.command(after, add_terminal("671")).await.unwrap());
    assert!(client.link().borrow().epoch.0 >= 2, "{:?}", *client.link().borrow());
    rig.same_as_server(&client, after).await;
    // The subscriber is given everything anew by the term that begins.
    let fresh = tokio::time::timeout(PATIENCE, async {
        loop {
            match told.next().await.expect("it stays subscribed") {
                Notice::Snapshot { epoch, meetings } if epoch.0 >= 2 => return meetings,
                _ => {}
            }
        }
    });
    let meetings: Vec<_> = fresh.await.unwrap().iter().map(|entry| entry.meeting).collect();
    assert!(meetings.contains(&before) && meetings.contains(&after), "{meetings:?}");
    nothing_stale(&rig);
}
