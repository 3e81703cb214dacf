//! Goal: an operator at night reads first what is wrong. Method: two reports, printed and compared word
//! for word; the same through JSON.

#![allow(clippy::unwrap_used)]

use remeet::ops::status::{
    ALARMS_MAX, Alarms, ClientsStatus, Completeness, LegCounts, LinkState, Phase, Queues, RoundReport, ServerStatus,
    SinkHealth, Status, Term, Trigger, print,
};
use remeet::recovery::lease::{Incumbent, LeaseView};
use remeet_protocol::{DomainId, Epoch, Holder, ServerId};
use std::collections::BTreeMap;
use std::time::Duration;

const NOW: u64 = 1_800_000_000_000;

fn server(id: u32, link: LinkState, live: u64, pending: u64) -> ServerStatus {
    ServerStatus {
        id: ServerId(id),
        name: format!("server-{id}"),
        address: Some(format!("127.0.0.1:75{id:02}").parse().unwrap()),
        under: None,
        link,
        link_since_ms: NOW - 90_000,
        boot: None,
        table_revision: 17,
        legs: LegCounts { live, in_meeting: live - pending, pending, ..LegCounts::default() },
        queues: Queues { pulls: 2, events: 3, ..Queues::default() },
        misbehaviour: BTreeMap::new(),
        last_error: None,
    }
}

fn well() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 4711,
        name: "scheduler-1".to_owned(),
        domain: DomainId(1),
        node: "node-1".to_owned(),
        at_ms: NOW,
        started_at_ms: NOW - 10_000_000,
        phase: Phase::Steady,
        phase_since_ms: NOW - 600_000,
        term: Some(Term { epoch: Epoch(3), holder: Holder::default(), since_ms: NOW - 9_000_000 }),
        lease: LeaseView::Active { commands_for_ms: 4_200 },
        servers: vec![server(1, LinkState::Attached, 50, 0), server(2, LinkState::Attached, 1200, 0)],
        totals: LegCounts { live: 1250, in_meeting: 1250, ..LegCounts::default() },
        rounds: vec![RoundReport {
            trigger: Trigger::Restart,
            began_at_ms: NOW - 9_000_000,
            ended_at_ms: Some(NOW - 8_990_000),
            epoch: Epoch(3),
            servers: vec![ServerId(1), ServerId(2)],
            meetings_live: 1252,
            recovered: 1249,
            orphans: 1,
            vanished: 0,
            ended: 2,
            pending: 0,
            pending_by_reason: BTreeMap::new(),
            keys_from_database: 1250,
            keys_from_cache: 0,
            in_control_ms: Some(812),
            backfilled_ms: Some(2345),
            in_control_at_ms: None,
            in_control_p99_at_ms: None,
            backfilled_at_ms: None,
            completeness: Completeness { meeting: 100.0, business: 100.0, decode: 99.99, extra: 100.0 },
            contents: 1249,
            read_back: 40,
            missing: Vec::new(),
            missing_total: 0,
        }],
        store: SinkHealth {
            what: "postgres://***@127.0.0.1/remeet".to_owned(),
            healthy: true,
            since_ms: NOW - 9_000_000,
            waiting: 0,
            idle_since_ms: None,
            last_error: None,
        },
        cache: SinkHealth {
            what: "memory:".to_owned(),
            healthy: true,
            since_ms: NOW - 9_000_000,
            waiting: 0,
            idle_since_ms: None,
            last_error: None,
        },
        clients: ClientsStatus { listen: "127.0.0.1:7400".parse().unwrap(), connected: 8, subscribed: 2 },
        alarms: Alarms::default(),
        counters: BTreeMap::from([("packets_received".to_owned(), 12)]),
    }
}

#[test]
fn a_report_in_which_nothing_is_wrong_says_so() {
    assert_eq!(
        print(&well()),
        "\
remeet 0.1.0 · scheduler-1 · domain 1 · node node-1 · pid 4711
steady for 10 min · epoch 3 for 2 h · up 2 h
1250 of 1250 live meetings in control
nothing is wrong

server  name      address         link      live  in control  recovering  pending  orphans  queued  faults
1       server-1  127.0.0.1:7501  attached    50          50           0        0        0       5       0
2       server-2  127.0.0.1:7502  attached  1200        1200           0        0        0       5       0

round    ago  live  recovered  orphans  ended  pending  vanished  keys db  keys cache  control  back-fill  complete
restart  2 h  1252       1249        1      2        0         0     1250           0   812 ms    2345 ms    99.9 %

store    postgres://***@127.0.0.1/remeet · well for 2 h
cache    memory: · well for 2 h
clients  8 connected, 2 subscribed, at 127.0.0.1:7400
"
    );
}

#[test]
fn what_is_wrong_stands_first() {
    let mut status = well();
    status.phase = Phase::WaitingForDatabase;
    status.term = None;
    status.servers[1] = server(2, LinkState::Down, 1200, 1200);
    status.servers[1].last_error = Some("connection refused\x1b[2J".to_owned());
    status.servers[1].misbehaviour = BTreeMap::from([("wrong CRC".to_owned(), 3), ("gap".to_owned(), 1)]);
    status.totals =
        LegCounts { live: 1250, in_meeting: 50, pending: 1200, orphans: 1, quarantined: 2, ..LegCounts::default() };
    status.store.healthy = false;
    status.store.since_ms = NOW - 45_000;
    status.store.waiting = 12;
    status.store.last_error = Some("connection refused".to_owned());
    status.rounds[0].ended_at_ms = None;
    status.rounds[0].backfilled_ms = None;
    status.alarms.raise(NOW - 50_000, "conflict", "servers 1 and 2 claim leg x: end one of them there");
    status.alarms.raise(NOW - 40_000, "conflict", "servers 1 and 2 claim leg x: end one of them there");
    assert_eq!(
        print(&status),
        "\
remeet 0.1.0 · scheduler-1 · domain 1 · node node-1 · pid 4711
waiting for the database for 10 min · no term yet · up 2 h
50 of 1249 live meetings in control
! the database does not answer: no takeover before it does
! store failing for 45 s: connection refused
! server 2 server-2 down for 90 s, 1200 meetings: connection refused [2J
! 1200 meetings pending: remeet troubled
! 2 meetings quarantined, in control without back-fill: remeet troubled
! 1 orphan kept untouched: remeet troubled shows how to adopt or end
! 1 alarm, below

server  name      address         link      live  in control  recovering  pending  orphans  queued  faults
2       server-2  127.0.0.1:7502  down      1200           0           0     1200        0       5       4
1       server-1  127.0.0.1:7501  attached    50          50           0        0        0       5       0

round        ago  live  recovered  orphans  ended  pending  vanished  keys db  keys cache  control  back-fill  complete
restart  running  1252       1249        1      2        0         0     1250           0   812 ms          –    99.9 %

store    postgres://***@127.0.0.1/remeet · failing for 45 s, 12 writes waiting
cache    memory: · well for 2 h
clients  8 connected, 2 subscribed, at 127.0.0.1:7400

alarms, newest first
  40 s ago  conflict (2 times): servers 1 and 2 claim leg x: end one of them there
"
    );
}

#[test]
fn rule_14_what_lacks_something_is_named_and_counted() {
    let mut status = well();
    let round = &mut status.rounds[0];
    round.completeness = Completeness { meeting: 99.95, business: 100.0, decode: 50.0, extra: 100.0 };
    round.missing = (0..32).map(|n| format!("a/0 terminal 42{n:03}: decode state unknown")).collect();
    round.missing_total = 40;
    let text = print(&status);
    let lacking: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("lacking")).take(12).collect();
    assert_eq!(lacking[0], "lacking after restart: 40");
    assert_eq!(lacking[1], "  a/0 terminal 42000: decode state unknown");
    assert_eq!(lacking[11], "  and 30 more: remeet status --json names the first");
    assert!(text.contains("2345 ms    50.0 %"), "the least of the four: {text}");
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["rounds"][0]["missing"].as_array().unwrap().len(), 32);
    assert_eq!(json["rounds"][0]["missing_total"], 40);
    // A report of the release before has no such field.
    let mut older = json;
    older["rounds"][0].as_object_mut().unwrap().remove("missing_total");
    assert_eq!(serde_json::from_value::<Status>(older).unwrap().rounds[0].missing_total, 0);
}

#[test]
fn an_alarm_whose_condition_is_over_is_shown_so_and_makes_room_first() {
    let mut status = well();
    status.alarms.raise(NOW - 50_000, "orphan", "server 1: leg x");
    status.alarms.raise(NOW - 40_000, "conflict", "server 1: leg y");
    status.alarms.end(NOW - 30_000, "orphan", "server 1: leg x");
    let text = print(&status);
    assert!(text.contains("! 1 alarm, below"), "{text}");
    assert!(text.contains("  50 s ago  orphan, over for 30 s: server 1: leg x"), "{text}");
    for n in 0..ALARMS_MAX - 1 {
        status.alarms.raise(NOW, "kind", &format!("text {n}"));
    }
    assert_eq!(status.alarms.iter().next().unwrap().text, "server 1: leg y", "what stands stays");
    status.alarms.end(NOW, "conflict", "server 1: leg y");
    status.alarms.raise(NOW, "conflict", "server 1: leg y");
    let last = status.alarms.iter().next_back().unwrap();
    assert_eq!((last.count, last.ended_ms), (2, None), "it is back");
}

#[test]
fn a_server_that_breaks_every_packet_is_one_alarm_with_the_latest_text() {
    let mut alarms = Alarms::default();
    alarms.raise(1, "orphan", "server 1: leg x: adopt or end it");
    for number in 0..1_000_u64 {
        let text = format!("server 1: stream: wrong CRC: the packet says {number:#x}");
        assert_eq!(alarms.raise(2 + number, "misbehaviour", &text), number + 1);
    }
    assert_eq!(alarms.raise(5_000, "misbehaviour", "server 2: stream: wrong CRC: the packet says 0x1"), 1);
    assert_eq!(alarms.raise(5_000, "misbehaviour", "server 1: identity: it claims to be server 3"), 1);
    let texts: Vec<_> = alarms.iter().map(|alarm| alarm.text.as_str()).collect();
    assert_eq!(texts.len(), 4, "nothing else is pushed out: {texts:?}");
    assert_eq!(texts[1], "server 1: stream: wrong CRC: the packet says 0x3e7");
}

#[test]
fn an_alarm_is_printed_to_its_end_where_it_says_what_to_do() {
    let mut status = well();
    let text = format!("server 1: leg {}/0: live, but without a key: kept; adopt or end it", "d4d276c0".repeat(20));
    status.alarms.raise(NOW, "orphan", &text);
    assert!(print(&status).contains(&text), "{}", print(&status));
}

#[test]
fn a_report_survives_json() {
    let mut status = well();
    status.alarms.raise(NOW, "conflict", "text");
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["rounds"][0]["trigger"], "restart");
    assert_eq!(value["phase"], "steady");
}

#[test]
fn rule_17_only_the_newest_alarms_are_kept() {
    let mut alarms = Alarms::default();
    for at in 0..ALARMS_MAX as u64 + 5 {
        alarms.raise(at, "kind", &format!("text {at}"));
    }
    assert_eq!(alarms.len(), ALARMS_MAX);
    assert_eq!(alarms.iter().next().unwrap().text, "text 5");
    alarms.raise(999, "kind", "text 5");
    let last = alarms.iter().next_back().unwrap();
    assert_eq!((last.count, last.at_ms, last.last_ms), (2, 5, 999));
    assert_eq!(alarms.len(), ALARMS_MAX);
}

#[test]
fn a_standby_says_who_holds_the_term_and_that_is_nothing_wrong() {
    let incumbent = Incumbent { node: "node-2#1a2b3c4d".to_owned(), epoch: Epoch(7), remaining: Duration::ZERO };
    let lease = LeaseView::Standby { incumbent: Some(incumbent), incumbent_remaining_ms: 4_200, held_back_ms: 0 };
    let mut status = Status { phase: Phase::Standby, term: None, lease, rounds: Vec::new(), ..well() };
    for server in &mut status.servers {
        server.link = LinkState::Up;
    }
    let text = print(&status);
    assert!(text.contains("standby"), "{text}");
    assert!(text.contains("node node-2#1a2b3c4d holds term 7, for 4.2 s yet"), "{text}");
    assert!(text.contains("nothing is wrong"), "{text}");
}

#[test]
fn a_lease_that_was_not_renewed_stands_first() {
    let text = print(&Status { lease: LeaseView::Lapsed, ..well() });
    assert!(text.contains("! the lease has lapsed: no command is sent until the store renews it"), "{text}");
}
