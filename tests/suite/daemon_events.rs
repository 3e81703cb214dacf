//! Goal: rule 15 at the clients' port: events are gapless and in order, or a reset with a snapshot comes first; an event
//! is sent only after its row has committed. Method: raw subscribers to `remeet run`, while a client changes meetings.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_bad_client::packet;
use crate::daemon_rig::{Backing, CONTROL, PATIENCE, Rig, add_terminal, ok};
use crate::daemon_silence::Raw;
use crate::pair_rig::on_postgres;
use futures_util::future::join_all;
use remeet::cms::client::Client;
use remeet_protocol::message::{ClientEvent, ClientOp, KeepAlive, SetExtra, Subscribe};
use remeet_protocol::record::RecordState;
use remeet_protocol::wire::Text;
use remeet_protocol::{Flags, LegId, MeetingId, Message, Packet, RecordKey};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The request of a watcher's `Subscribe`.
const SUBSCRIBE: u64 = 2;

/// A snapshot that is coming in.
struct Incomplete {
    is_answer: bool,
    index: u32,
    meetings: Vec<MeetingId>,
}

/// A subscriber that checks rule 15 with every packet.
struct Watcher {
    raw: Raw,
    sequence: u64,
    incomplete: Option<Incomplete>,
    snapshots: Vec<Vec<MeetingId>>,
    resets: usize,
    events: u64,
    revisions: BTreeMap<LegId, u64>,
    seen: BTreeSet<(MeetingId, RecordKey)>,
}

impl Watcher {
    async fn subscribe(rig: &Rig, meeting: Option<MeetingId>) -> Self {
        let (mut raw, _) = Raw::welcomed(rig).await;
        raw.send(packet(SUBSCRIBE, Subscribe { meeting })).await;
        let mut watcher = Self {
            raw,
            sequence: u64::MAX,
            incomplete: None,
            snapshots: Vec::new(),
            resets: 0,
            events: 0,
            revisions: BTreeMap::new(),
            seen: BTreeSet::new(),
        };
        while watcher.snapshots.is_empty() {
            watcher.step().await;
        }
        watcher
    }

    /// Waits for a packet and takes it in; an event is returned.
    async fn step(&mut self) -> Option<ClientEvent> {
        let packet = self.raw.next().await.expect("the connection lasts");
        self.take(packet)
    }

    fn take(&mut self, packet: Packet) -> Option<ClientEvent> {
        let Packet { header, message, .. } = packet;
        let is_notice = (header.request, header.flags) == (0, Flags::NONE);
        match message {
            Message::Subscribed(subscribed) => {
                assert_eq!((header.request, header.flags, header.index), (SUBSCRIBE, Flags::ANSWER, 0));
                self.sequence = subscribed.sequence;
                self.incomplete = Some(Incomplete { is_answer: true, index: 1, meetings: Vec::new() });
            }
            Message::Reset(reset) => {
                assert!(is_notice && self.incomplete.is_none(), "{header:?}");
                assert_eq!(reset.sequence, self.sequence, "numbers go on where they were");
                self.resets += 1;
                self.revisions.clear();
                self.incomplete = Some(Incomplete { is_answer: false, index: 0, meetings: Vec::new() });
            }
            Message::ListPage(page) => {
                let incomplete = self.incomplete.as_mut().expect("a snapshot has begun");
                let flags = if incomplete.is_answer { Flags::ANSWER } else { Flags::NONE };
                assert_eq!((header.flags, header.index), (flags, incomplete.index));
                incomplete.index += 1;
                incomplete.meetings.extend(page.entries.iter().map(|entry| entry.meeting));
            }
            Message::ListEnd(end) => {
                let incomplete = self.incomplete.take().expect("a snapshot has begun");
                let (flags, request) =
                    if incomplete.is_answer { (Flags::FINAL_ANSWER, SUBSCRIBE) } else { (Flags::LAST, 0) };
                assert_eq!((header.flags, header.request, header.index), (flags, request, incomplete.index));
                assert_eq!((end.complete, end.entries as usize), (true, incomplete.meetings.len()));
                assert!(incomplete.meetings.is_sorted_by(|one, other| one < other), "{:?}", incomplete.meetings);
                self.snapshots.push(incomplete.meetings);
            }
            Message::ClientEvent(event) => {
                assert!(is_notice, "{header:?}");
                assert!(self.incomplete.is_none(), "an event within a snapshot: {event:?}");
                assert_eq!(event.sequence, self.sequence + 1, "after {} events", self.events);
                self.sequence = event.sequence;
                self.events += 1;
                let before = self.revisions.insert(event.leg, event.revision);
                assert!(before.is_none_or(|before| before <= event.revision), "{before:?}: {event:?}");
                for change in &event.changes {
                    if let RecordState::Present(record) = &change.state {
                        self.seen.insert((event.leg.meeting, record.key()));
                    }
                }
                return Some(event);
            }
            Message::KeepAlive(_) => {}
            other => panic!("{header:?} {other:?}"),
        }
        None
    }

    /// Takes in everything that was sent before now.
    async fn catch_up(&mut self, request: u64) {
        self.raw.send(packet(request, KeepAlive {})).await;
        loop {
            let next = self.raw.next().await.expect("the connection lasts");
            if next.header.request == request && matches!(next.message, Message::KeepAliveAnswer(_)) {
                return;
            }
            self.take(next);
        }
    }
}

/// What the servers have of a meeting.
fn truth(rig: &Rig, meeting: MeetingId) -> BTreeSet<(MeetingId, RecordKey)> {
    let legs = rig.servers.iter().flat_map(|server| server.dump().legs);
    let records = legs.filter(|leg| leg.leg.meeting == meeting).flat_map(|leg| leg.records);
    records.map(|found| (meeting, found.record.key())).collect()
}

/// Adds many terminals to each meeting, all at the same time.
async fn change(client: &Client, meetings: &[MeetingId], count: usize) {
    let commands = meetings
        .iter()
        .flat_map(|meeting| (0..count).map(|number| client.command(*meeting, add_terminal(&format!("7{number:03}")))));
    join_all(commands).await.into_iter().for_each(|answer| ok(answer.unwrap()));
}

async fn follows(backing: &Backing) {
    const CHANGES: usize = 60;
    let mut rig = Rig::new(2, backing).await;
    rig.environment("REMEET_LINK__KEEP_ALIVE_MS", "30000");
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings = [rig.meeting(&client, 1, 1).await, rig.meeting(&client, 2, 1).await];
    let before: BTreeSet<_> = meetings.iter().flat_map(|meeting| truth(&rig, *meeting)).collect();
    let mut all = Watcher::subscribe(&rig, None).await;
    let mut one = Watcher::subscribe(&rig, Some(meetings[1])).await;
    assert_eq!((&all.snapshots[0][..], &one.snapshots[0][..]), (&meetings[..], &meetings[1..]));

    let at_work = change(&client, &meetings, CHANGES);
    let reader = rig.client(CONTROL).await;
    let watched = async {
        let mut checked = 0;
        while all.events < 2 * CHANGES as u64 {
            let Some(event) = all.step().await else { continue };
            // What it tells is committed: a read finds it.
            if all.events % 10 == 0 {
                let view = reader.get(event.leg.meeting).await.unwrap().view;
                assert!(view.info.revision >= event.revision, "{event:?} came before its row: {:?}", view.info);
                checked += 1;
            }
        }
        assert!(checked >= 10);
    };
    tokio::join!(at_work, watched);
    let wanted = |meeting| truth(&rig, meeting).into_iter().filter(|it| !before.contains(it)).collect::<BTreeSet<_>>();
    let (first, second) = (wanted(meetings[0]), wanted(meetings[1]));
    assert!(first.len() >= CHANGES && second.len() >= CHANGES, "{} and {}", first.len(), second.len());
    while !all.seen.is_superset(&first) || !all.seen.is_superset(&second) {
        all.step().await;
    }
    while !one.seen.is_superset(&second) {
        one.step().await;
    }
    assert!(one.seen.iter().all(|(meeting, _)| *meeting == meetings[1]), "another meeting's event");
    assert_eq!((all.resets, one.resets), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_events_over_the_port_are_gapless_in_order_and_committed_embedded() {
    follows(&Backing::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_events_over_the_port_are_gapless_in_order_and_committed_on_postgres_and_redis() {
    let Some((_database, backing)) = on_postgres() else { return };
    follows(&backing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_a_slow_reader_gets_a_reset_then_a_snapshot_then_the_next_number() {
    // Many at a time: each meeting's commands follow one another, and megabytes of buffers are to be filled.
    const MEETINGS: usize = 110;
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.environment("REMEET_CLIENTS__EVENTS_WAITING_MAX", "16");
    rig.environment("REMEET_LINK__KEEP_ALIVE_MS", "30000");
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let mut meetings = Vec::new();
    for server in [1, 2].into_iter().cycle().take(MEETINGS) {
        meetings.push(rig.meeting(&client, server, 1).await);
    }
    let mut slow = Watcher::subscribe(&rig, None).await;
    let mut value = 0_u32;
    let begun = Instant::now();
    // It reads only between bursts, each longer than the one before; the port gives up who reads nothing for 10 s.
    for round in 1.. {
        let unread = Instant::now();
        for _ in 0..8 << round.min(10) {
            value += 1;
            let burst = meetings.iter().map(|meeting| client.command(*meeting, set_extra(value)));
            join_all(burst).await.into_iter().for_each(|answer| ok(answer.unwrap()));
            if unread.elapsed() > Duration::from_secs(8) {
                break;
            }
        }
        slow.catch_up(100 + round).await;
        if slow.resets > 0 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "never reset, after {} events", slow.events);
    }
    // Every burst is told, or was reset over, before the quiet part begins.
    for request in 1_000.. {
        let resets = slow.resets;
        while slow.snapshots.len() <= slow.resets {
            slow.step().await;
        }
        slow.catch_up(request).await;
        if slow.resets == resets && slow.snapshots.len() > slow.resets {
            break;
        }
    }
    println!("{} resets after {} events and {value} bursts", slow.resets, slow.events);
    assert_eq!(slow.snapshots.last(), Some(&meetings), "everything, anew");
    // One at a time is not too fast for it: each is the next number.
    let resets = slow.resets;
    for number in 0..20 {
        let meeting = meetings[number % MEETINGS];
        ok(client.command(meeting, add_terminal(&format!("8{number:03}"))).await.unwrap());
        let wanted: BTreeSet<_> =
            truth(&rig, meeting).into_iter().filter(|(_, key)| is_terminal(key, number)).collect();
        assert!(!wanted.is_empty());
        while !slow.seen.is_superset(&wanted) {
            slow.step().await;
        }
    }
    assert_eq!(slow.resets, resets);
    rig.until("counted", |status| status.counters["subscriptions_reset"] >= 1).await;
    rig.until_logged("a slow subscriber is given a snapshot").await;
}

/// Whether it is a record of the terminal that was added as this number.
fn is_terminal(key: &RecordKey, number: usize) -> bool {
    format!("{key:?}").contains(&format!("8{number:03}"))
}

fn set_extra(value: u32) -> ClientOp {
    let mut bytes = vec![7; 512];
    bytes[..4].copy_from_slice(&value.to_be_bytes());
    ClientOp::SetExtra(SetExtra {
        number: Text::cut("601"),
        key: Text::cut("seat"),
        value: Some(bytes.try_into().unwrap()),
    })
}
