//! Reading from a simulated server: inventories cut at one table revision, pulls since a mark.

#![allow(clippy::unwrap_used)]

use crate::simulator_client::*;
use remeet::simulator::{Kind, Request, Script};
use remeet_protocol::message::*;
use remeet_protocol::record::{Change, Mark, Record, RecordKey, RecordState};
use remeet_protocol::*;
use std::collections::{BTreeMap, HashSet};

/// What a receiver stores.
#[derive(Default)]
struct Stored(BTreeMap<RecordKey, Record>);

impl Stored {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change.state {
                RecordState::Present(record) => self.0.insert(record.key(), record),
                RecordState::Removed(key) => self.0.remove(&key),
            };
        }
    }

    /// Count and digest, computed from the records alone.
    fn recomputed(&self, revision: u64) -> Mark {
        let mut mark = Mark { revision, ..Mark::default() };
        self.0.values().for_each(|record| mark.count(record, true));
        mark
    }
}

async fn change(server: &remeet::simulator::Running, seed: u64) {
    let script = Script { seed, fraction: 1.0, meetings: None, kinds: Kind::ALL.to_vec() };
    server.control(Request::Change(script)).await.unwrap();
}

#[tokio::test]
async fn an_inventory_is_one_cut_while_membership_changes_between_its_pages() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    for n in 0..100 {
        scheduler.command(leg(n), 1, start(secret(1))).await;
    }
    let (mut entries, first) = scheduler.page(Query { cut: 0, after: 0, packets_max: 2 }).await;
    assert!(!first.complete && first.total == 100 && entries.len() == 24, "{first:?}");
    let mut end = first.clone();
    let mut pages = 1;
    while !end.complete {
        // Between any two pages a leg ends and is forgotten, another appears.
        scheduler.command(leg(99 - pages), 2, Op::End(End { cause: EndCause::Commanded })).await;
        let last = scheduler.notices.iter().rev().find_map(|notice| match notice {
            Notice::Event(event) => Some(event.number),
            _ => None,
        });
        scheduler.acknowledge(last.unwrap()).await;
        scheduler.command(leg(200 + pages), 1, start(secret(1))).await;
        let (more, next) = scheduler.page(Query { cut: first.cut, after: end.after, packets_max: 2 }).await;
        assert_eq!((next.cut, next.table_revision, next.total), (first.cut, first.table_revision, 100));
        entries.extend(more);
        end = next;
        pages += 1;
    }
    assert!(pages > 3 && entries.is_sorted_by_key(|entry| entry.handle));
    let members: HashSet<_> = entries.iter().map(|entry| entry.leg).collect();
    assert_eq!(members, (0..100).map(leg).collect(), "the members are those of the cut");
    let (now, end) = scheduler.inventory().await;
    assert_eq!(now.len() as u64, end.total);
    assert!(end.table_revision > first.table_revision);
    assert_eq!(end.table_revision, server.dump().table_revision);
}

#[tokio::test]
async fn a_cut_is_shared_by_repeats_outlives_its_connection_and_goes_at_last() {
    let server = simulator().await;
    let mut scheduler = Scheduler::connect(server.address).await;
    let query = Query { cut: 0, after: 0, packets_max: 1 };
    let first = scheduler.page(query.clone()).await.1.cut;
    let repeat = scheduler.ask_as(scheduler.request, query.clone()).await;
    assert!(matches!(repeat.last(), Some(Message::InventoryEnd(end)) if end.cut == first), "the same request");
    assert_ne!(scheduler.page(query.clone()).await.1.cut, first, "another request");

    let mut other = Scheduler::connect(server.address).await;
    assert_eq!(other.page(Query { cut: first, ..query.clone() }).await.1.cut, first);
    for _ in 0..40 {
        other.page(query.clone()).await;
    }
    let failure = scheduler.failure(Query { cut: first, ..query }).await;
    assert_eq!(failure.code, ErrorCode::CUT_GONE);
}

#[tokio::test]
async fn a_full_pull_in_small_pages_has_the_digest_of_its_records() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = scheduler.meeting(1, 30).await;
    change(&server, 1).await;
    let pulled = scheduler.pull(1, handle, 0, 1).await;
    assert!(pulled.full && pulled.pages >= 5, "{} pages", pulled.pages);
    assert!(pulled.changes.is_sorted_by_key(|change| change.revision));
    let mut stored = Stored::default();
    stored.apply(pulled.changes);
    assert_eq!(stored.recomputed(pulled.mark.revision), pulled.mark);
    assert_eq!(pulled.mark, server.dump().legs[0].mark);
}

#[tokio::test]
async fn a_pull_since_a_mark_brings_what_changed_and_what_was_removed() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = scheduler.meeting(1, 40).await;
    let mut stored = Stored::default();
    let first = scheduler.pull(1, handle, 0, 256).await;
    let whole = first.changes.len();
    stored.apply(first.changes);
    let mut mark = first.mark;
    for seed in 0..20 {
        change(&server, seed).await;
        let pulled = scheduler.pull(1, handle, mark.revision, 256).await;
        assert!(!pulled.full && pulled.changes.len() < whole / 2, "seed {seed}: {} changes", pulled.changes.len());
        assert!(pulled.changes.iter().all(|change| change.revision > mark.revision));
        stored.apply(pulled.changes);
        mark = pulled.mark;
        assert_eq!(stored.recomputed(mark.revision), mark, "seed {seed}");
    }
    let idle = scheduler.pull(1, handle, mark.revision, 256).await;
    assert!(!idle.full && idle.changes.is_empty() && idle.mark == mark);
    assert_eq!(server.stats().full_pulls, 1);
}

#[tokio::test]
async fn what_changes_during_a_pull_is_left_to_its_event() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = scheduler.meeting(1, 30).await;
    let ask = Pull { handle, leg: leg(1), since: 0, upto: 0, after: 0, full: false, packets_max: 1 };
    let mut answer = scheduler.ask(ask.clone()).await;
    let Some(Message::PullEnd(mut end)) = answer.pop() else { panic!("{answer:?}") };
    let upto = end.upto;
    let mut stored = Stored::default();
    loop {
        for message in answer {
            let Message::PullPage(page) = message else { panic!("{message:?}") };
            assert!(page.changes.iter().all(|change| change.revision <= upto.revision));
            stored.apply(page.changes);
        }
        if end.complete {
            break;
        }
        change(&server, end.after).await;
        let next = Pull { upto: upto.revision, after: end.after, full: end.full, ..ask.clone() };
        answer = scheduler.ask(next).await;
        let Some(Message::PullEnd(next)) = answer.pop() else { panic!("{answer:?}") };
        assert_eq!((next.upto, next.full), (upto, true), "the mark is that of the pull's start");
        end = next;
    }
    // Pull and events together are the whole.
    let mut revision = upto.revision;
    let truth = server.dump().legs[0].mark;
    while revision < truth.revision {
        let event = scheduler.event().await;
        assert_eq!(event.previous, revision, "the events go on where the pull ended");
        revision = event.mark.revision;
        stored.apply(event.changes);
    }
    assert_eq!(stored.recomputed(revision), truth);
}

#[tokio::test]
async fn without_the_removals_a_pull_is_full() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = scheduler.meeting(1, 5).await;
    let mark = scheduler.pull(1, handle, 0, 256).await.mark;
    change(&server, 1).await;
    server.control(Request::StopKeepingRemovals).await.unwrap();
    let pulled = scheduler.pull(1, handle, mark.revision, 256).await;
    assert!(pulled.full);
    assert!(pulled.changes.iter().all(|change| matches!(change.state, RecordState::Present(_))), "no removals");
    let mut stored = Stored::default();
    stored.apply(pulled.changes);
    assert_eq!(stored.recomputed(pulled.mark.revision), pulled.mark);
    assert!(!scheduler.pull(1, handle, pulled.mark.revision, 256).await.full, "removals are kept from there on");
    assert!(scheduler.pull(1, handle, pulled.mark.revision + 5, 256).await.full, "a mark from nowhere");
}

#[tokio::test]
async fn a_pull_names_leg_and_handle_that_belong_together() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = scheduler.meeting(1, 1).await;
    let pull = Pull { handle, leg: leg(1), since: 0, upto: 0, after: 0, full: false, packets_max: 1 };
    let wrong = scheduler.failure(Pull { leg: leg(2), ..pull.clone() }).await;
    assert_eq!(wrong.code, ErrorCode::UNKNOWN_MEETING);
    let gone = scheduler.failure(Pull { upto: 3, after: 2, ..pull.clone() }).await;
    assert_eq!(gone.code, ErrorCode::CUT_GONE, "a pull that nobody began");
    scheduler.command(leg(1), 9, Op::End(End { cause: EndCause::Commanded })).await;
    assert_eq!(scheduler.failure(pull).await.code, ErrorCode::ENDED);
}
