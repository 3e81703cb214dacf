//! The contract of `Cache`, run against the in-process cache and against Redis.
//!
//! Each test is a function over `dyn Cache`; [`contract!`] makes a test of it for each of the two. What
//! decides between writes is checked once more by running both side by side on drawn sequences.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::cache_records::{
    DOMAIN, boot, changed, content, delta, head, key, keys_of, leg, mark, name, present, random, whole,
};
use crate::servers::redis_url;
use rand::Rng;
use remeet::store::CacheOutcome::{Applied, Lost, Stale};
use remeet::store::memory::MemoryCache;
use remeet::store::{Cache, CacheOutcome, CacheWrite, open_cache};
use remeet_protocol::message::MeetingState;
use remeet_protocol::record::RecordState;
use remeet_protocol::{Change, DomainId, Epoch, Handle, LegId, Record};
use std::sync::Arc;

macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(std::sync::Arc::new(super::MemoryCache::default())).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $test() {
                let Some(url) = super::redis_url() else { return };
                super::$test(super::open_cache(&url).unwrap()).await;
            })*
        }
    };
}

contract! {
    nothing_asked_is_nothing_answered,
    keys_come_back_and_what_is_not_cached_is_absent,
    rule_4_a_key_of_a_lower_epoch_or_generation_loses,
    an_older_epoch_alone_keeps_the_key_and_raises_its_epoch,
    numbers_beyond_2_to_the_53_are_compared_exactly,
    whole_content_comes_back_in_order_of_key,
    a_whole_write_removes_what_it_does_not_hold,
    a_delta_applies_to_its_base_only,
    a_delta_written_twice_has_one_effect,
    of_a_record_that_goes_and_comes_in_one_write_the_last_stands,
    a_leg_of_thousands_of_records_is_written_and_changed,
    rule_4_status_of_a_lower_epoch_or_revision_loses,
    an_old_boots_higher_revision_does_not_block_a_higher_epoch,
    within_a_term_a_whole_write_of_a_new_place_replaces_the_old_one,
    at_an_equal_mark_a_delta_writes_the_head_only,
    at_an_equal_mark_a_whole_write_replaces_what_does_not_fit,
    at_an_equal_revision_a_whole_write_of_another_digest_replaces,
    rule_9_at_an_equal_mark_an_ended_leg_is_not_brought_back,
    writes_of_one_call_are_made_in_order,
    stamps_are_one_for_each_leg_in_order,
    forgetting_leaves_what_a_higher_epoch_wrote,
    a_late_write_does_not_bring_a_forgotten_leg_back,
    forgetting_keys_leaves_the_status,
    domains_are_kept_apart,
    a_dump_holds_everything_up_to_its_bound,
    names_are_those_of_the_domains_keys_and_status,
    rule_4_of_concurrent_writes_the_highest_stands_whole,
}

type TestCache = Arc<dyn Cache>;

async fn write(cache: &TestCache, write: CacheWrite) -> CacheOutcome {
    cache.write(&[write]).await.unwrap()[0]
}

/// Asserts that the leg holds just `records` at `revision`, whole.
async fn assert_holds(cache: &TestCache, n: u32, revision: u64, records: &[Record]) {
    let cached = cache.contents(&[name(n)]).await.unwrap().remove(0);
    let held: Vec<Record> = cached
        .changes
        .iter()
        .map(|change| match &change.state {
            RecordState::Present(record) => record.clone(),
            RecordState::Removed(key) => panic!("{key:?} is cached as removed"),
        })
        .collect();
    assert_eq!(held, records);
    assert_eq!(cached.mark, mark(revision, records));
}

async fn generation(cache: &TestCache, n: u32) -> Option<(u64, u64)> {
    cache.keys(&[name(n)]).await.unwrap().first().map(|key| (key.epoch.0, key.generation))
}

async fn nothing_asked_is_nothing_answered(cache: TestCache) {
    cache.put_keys(Epoch(1), &[]).await.unwrap();
    cache.forget(Epoch(1), &[]).await.unwrap();
    cache.forget_keys(&[]).await.unwrap();
    assert!(cache.keys(&[]).await.unwrap().is_empty());
    assert!(cache.stamps(&[]).await.unwrap().is_empty());
    assert!(cache.write(&[]).await.unwrap().is_empty());
    assert!(cache.contents(&[name(1)]).await.unwrap().is_empty());
    let dump = cache.dump(10).await.unwrap();
    assert!(dump.legs.is_empty() && dump.keys.is_empty());
}

async fn keys_come_back_and_what_is_not_cached_is_absent(cache: TestCache) {
    let put: Vec<_> = (0..2_500).map(|n| key(n, u64::from(n) + 1)).collect();
    cache.put_keys(Epoch(4), &put).await.unwrap();
    let asked: Vec<_> = (0..2_600).map(name).collect();
    let found = cache.keys(&asked).await.unwrap();
    assert_eq!(found.len(), put.len());
    for (found, put) in found.iter().zip(&put) {
        assert_eq!(
            (found.leg, &found.secret, found.generation, found.epoch.0),
            (put.leg, &put.secret, put.generation, 4)
        );
    }
}

async fn rule_4_a_key_of_a_lower_epoch_or_generation_loses(cache: TestCache) {
    for (epoch, put, stands) in [(5, 3, (5, 3)), (5, 2, (5, 3)), (4, 9, (5, 3)), (5, 4, (5, 4)), (6, 1, (6, 1))] {
        cache.put_keys(Epoch(epoch), &[key(1, put)]).await.unwrap();
        assert_eq!(generation(&cache, 1).await, Some(stands), "after ({epoch}, {put})");
        assert_eq!(cache.keys(&[name(1)]).await.unwrap()[0].secret, key(1, stands.1).secret);
    }
}

async fn an_older_epoch_alone_keeps_the_key_and_raises_its_epoch(cache: TestCache) {
    cache.put_keys(Epoch(5), &[key(1, 3)]).await.unwrap();
    cache.put_keys(Epoch(6), &[key(1, 3)]).await.unwrap();
    assert_eq!(generation(&cache, 1).await, Some((6, 3)));
    cache.put_keys(Epoch(5), &[key(1, 4)]).await.unwrap();
    assert_eq!(generation(&cache, 1).await, Some((6, 3)), "the term before was still able to write");
}

async fn numbers_beyond_2_to_the_53_are_compared_exactly(cache: TestCache) {
    let big = 1 << 53;
    cache.put_keys(Epoch(big + 1), &[key(1, 1)]).await.unwrap();
    cache.put_keys(Epoch(big), &[key(1, 2)]).await.unwrap();
    assert_eq!(generation(&cache, 1).await, Some((big + 1, 1)));
    // More digits, yet a lower first digit: not an order of texts either.
    cache.put_keys(Epoch(u64::MAX), &[key(1, u64::MAX)]).await.unwrap();
    assert_eq!(generation(&cache, 1).await, Some((u64::MAX, u64::MAX)));
    assert_eq!(write(&cache, whole(1, 9, big + 1, &[])).await, Applied);
    assert_eq!(write(&cache, whole(1, 9, big, &[])).await, Lost);
    assert_eq!(write(&cache, whole(1, 10, u64::MAX, &[])).await, Applied);
    assert_eq!(cache.stamps(&[name(1)]).await.unwrap()[0].mark, Some(mark(u64::MAX, &[])));
}

async fn whole_content_comes_back_in_order_of_key(cache: TestCache) {
    let random = &mut random("whole_content");
    let contents: Vec<_> = (0..500).map(|n| content(random, n % 12, n % 5)).collect();
    let writes: Vec<_> = (0..).zip(&contents).map(|(n, records)| whole(n, 1, 10, records)).collect();
    assert!(cache.write(&writes).await.unwrap().iter().all(|outcome| *outcome == Applied));
    let names: Vec<_> = (0..500).map(name).collect();
    let cached = cache.contents(&names).await.unwrap();
    assert_eq!(cached.len(), writes.len());
    for (cached, write) in cached.iter().zip(&writes) {
        assert_eq!((&cached.head, cached.mark, &cached.changes), (&write.head, write.mark, &write.changes));
    }
}

async fn a_whole_write_removes_what_it_does_not_hold(cache: TestCache) {
    let records = content(&mut random("a_whole_write"), 5, 3);
    assert_eq!(write(&cache, whole(1, 1, 10, &records)).await, Applied);
    assert_eq!(write(&cache, whole(1, 1, 11, &records[..4])).await, Applied);
    assert_holds(&cache, 1, 11, &records[..4]).await;
}

async fn a_delta_applies_to_its_base_only(cache: TestCache) {
    let random = &mut random("a_delta");
    let before = content(random, 6, 2);
    let after = changed(random, &before);
    assert!(keys_of(&before).iter().any(|key| !keys_of(&after).contains(key)), "the seed removes something");
    assert_eq!(write(&cache, delta(1, 1, 10, &before, 12, &after)).await, Stale, "nothing is cached yet");
    assert_eq!(write(&cache, whole(1, 1, 10, &before)).await, Applied);
    for base in [9, 11] {
        assert_eq!(write(&cache, delta(1, 1, base, &before, 12, &after)).await, Stale);
    }
    let mut elsewhere = delta(1, 2, 10, &before, 12, &after);
    elsewhere.head.boot = boot(2);
    assert_eq!(write(&cache, elsewhere).await, Stale, "the same revision of another boot id");
    assert_holds(&cache, 1, 10, &before).await;
    assert_eq!(write(&cache, delta(1, 2, 10, &before, 12, &after)).await, Applied);
    assert_holds(&cache, 1, 12, &after).await;
}

async fn a_delta_written_twice_has_one_effect(cache: TestCache) {
    let random = &mut random("a_delta_written_twice");
    let before = content(random, 3, 2);
    let after = changed(random, &before);
    assert_eq!(write(&cache, whole(1, 1, 10, &before)).await, Applied);
    for _ in 0..2 {
        assert_eq!(write(&cache, delta(1, 1, 10, &before, 12, &after)).await, Applied);
        assert_holds(&cache, 1, 12, &after).await;
    }
}

/// Found by `scripts/crash-loop --seed 2026`, cycle 295: one event took a window away and gave it back.
async fn of_a_record_that_goes_and_comes_in_one_write_the_last_stands(cache: TestCache) {
    let records = content(&mut random("a_record_that_goes_and_comes"), 2, 2);
    let record = records.last().unwrap().clone();
    let without = records[..records.len() - 1].to_vec();
    let gone = |revision| Change { revision, state: RecordState::Removed(record.key()) };
    assert_eq!(write(&cache, whole(1, 1, 10, &records)).await, Applied);
    let there_at_last =
        CacheWrite { changes: vec![gone(11), present(12, &record)], ..delta(1, 1, 10, &records, 12, &records) };
    assert_eq!(write(&cache, there_at_last).await, Applied);
    assert_holds(&cache, 1, 12, &records).await;
    let changes = vec![gone(13), present(14, &record), gone(15)];
    assert_eq!(write(&cache, CacheWrite { changes, ..delta(1, 1, 12, &records, 15, &without) }).await, Applied);
    assert_holds(&cache, 1, 15, &without).await;
    // The same in a whole write.
    let mut changes = whole(1, 1, 20, &records).changes;
    changes.push(gone(20));
    assert_eq!(write(&cache, CacheWrite { changes, ..whole(1, 1, 20, &without) }).await, Applied);
    assert_holds(&cache, 1, 20, &without).await;
}

async fn a_leg_of_thousands_of_records_is_written_and_changed(cache: TestCache) {
    let records = content(&mut random("a_leg_of_thousands"), 300, 12);
    assert!(records.len() > 4_000);
    assert_eq!(write(&cache, whole(1, 1, 10, &records)).await, Applied);
    assert_holds(&cache, 1, 10, &records).await;
    let few = records[..records.len() / 4].to_vec();
    assert_eq!(write(&cache, delta(1, 1, 10, &records, 11, &few)).await, Applied);
    assert_holds(&cache, 1, 11, &few).await;
}

async fn rule_4_status_of_a_lower_epoch_or_revision_loses(cache: TestCache) {
    let records = content(&mut random("rule_4_status"), 3, 1);
    assert_eq!(write(&cache, whole(1, 5, 10, &records)).await, Applied);
    assert_eq!(write(&cache, whole(1, 5, 9, &[])).await, Lost);
    assert_eq!(write(&cache, whole(1, 4, 99, &[])).await, Lost);
    assert_eq!(write(&cache, delta(1, 5, 8, &records, 9, &[])).await, Lost);
    assert_eq!(write(&cache, delta(1, 4, 10, &records, 11, &[])).await, Lost);
    assert_holds(&cache, 1, 10, &records).await;
    assert_eq!(write(&cache, whole(1, 6, 9, &records[..1])).await, Applied, "(6, 9) is above (5, 10)");
    assert_holds(&cache, 1, 9, &records[..1]).await;
}

async fn an_old_boots_higher_revision_does_not_block_a_higher_epoch(cache: TestCache) {
    let records = content(&mut random("an_old_boot"), 3, 1);
    assert_eq!(write(&cache, whole(1, 5, 900, &records)).await, Applied);
    let mut reborn = whole(1, 6, 2, &records[..2]);
    reborn.head.boot = boot(2);
    assert_eq!(write(&cache, reborn.clone()).await, Applied);
    assert_holds(&cache, 1, 2, &records[..2]).await;
    let stamp = cache.stamps(&[name(1)]).await.unwrap()[0];
    assert_eq!(stamp.place, Some((boot(2), reborn.head.handle)));
    assert_eq!(write(&cache, whole(1, 5, 901, &records)).await, Lost, "the old boot's late status");
}

async fn within_a_term_a_whole_write_of_a_new_place_replaces_the_old_one(cache: TestCache) {
    let records = content(&mut random("within_a_term"), 3, 1);
    assert_eq!(write(&cache, whole(1, 5, 900, &records)).await, Applied);
    let mut moved = whole(1, 5, 2, &records[..2]);
    moved.head.handle = Handle(77);
    assert_eq!(write(&cache, moved).await, Applied);
    assert_holds(&cache, 1, 2, &records[..2]).await;
}

async fn at_an_equal_mark_a_delta_writes_the_head_only(cache: TestCache) {
    let records = content(&mut random("at_an_equal_mark"), 3, 1);
    assert_eq!(write(&cache, whole(1, 5, 10, &records)).await, Applied);
    let mut ending = whole(1, 6, 10, &records);
    ending.head.state = MeetingState::Ending;
    // Were it written, it would show.
    let gone = Change { revision: 10, state: RecordState::Removed(records[0].key()) };
    (ending.base, ending.changes) = (Some(10), vec![gone]);
    assert_eq!(write(&cache, ending.clone()).await, Applied);
    assert_holds(&cache, 1, 10, &records).await;
    assert_eq!(cache.contents(&[name(1)]).await.unwrap()[0].head, ending.head);
}

/// Found by the simulation (seed 3840): records of a leg's former life were cached before anybody had counted them, under the
/// mark that the leg has.
async fn at_an_equal_mark_a_whole_write_replaces_what_does_not_fit(cache: TestCache) {
    let records = content(&mut random("at_an_equal_mark"), 3, 1);
    let right = whole(1, 5, 10, &records);
    let wrong = CacheWrite { changes: whole(1, 5, 10, &records[..2]).changes, ..right.clone() };
    assert_eq!(write(&cache, wrong).await, Applied);
    assert_eq!(write(&cache, right).await, Applied);
    assert_holds(&cache, 1, 10, &records).await;
}

async fn at_an_equal_revision_a_whole_write_of_another_digest_replaces(cache: TestCache) {
    let records = content(&mut random("at_an_equal_revision"), 3, 1);
    assert_eq!(write(&cache, whole(1, 5, 10, &records)).await, Applied);
    assert_eq!(write(&cache, whole(1, 5, 10, &records[..3])).await, Applied);
    assert_holds(&cache, 1, 10, &records[..3]).await;
}

async fn rule_9_at_an_equal_mark_an_ended_leg_is_not_brought_back(cache: TestCache) {
    let in_state = |epoch, state| {
        let mut write = whole(1, epoch, 10, &[]);
        write.head.state = state;
        write
    };
    use MeetingState::{Ended, Ending, InMeeting};
    for (epoch, state, outcome) in [
        (5, InMeeting, Applied),
        (5, Ending, Applied),
        (5, InMeeting, Lost),
        (5, Ended, Applied),
        (5, Ending, Lost),
        (5, InMeeting, Lost),
        // Another term has looked into the database, which decides.
        (6, InMeeting, Applied),
    ] {
        assert_eq!(write(&cache, in_state(epoch, state)).await, outcome, "({epoch}, {state:?})");
    }
}

async fn writes_of_one_call_are_made_in_order(cache: TestCache) {
    let random = &mut random("writes_of_one_call");
    let before = content(random, 4, 1);
    let after = changed(random, &before);
    let writes = [
        whole(1, 5, 10, &before),
        delta(1, 5, 10, &before, 12, &after),
        delta(2, 5, 10, &before, 12, &after),
        whole(1, 5, 11, &[]),
    ];
    assert_eq!(cache.write(&writes).await.unwrap(), [Applied, Applied, Stale, Lost]);
    assert_holds(&cache, 1, 12, &after).await;
}

async fn stamps_are_one_for_each_leg_in_order(cache: TestCache) {
    let records = content(&mut random("stamps"), 2, 1);
    let keyed: Vec<_> = (0..1_500).step_by(2).map(|n| key(n, 7)).collect();
    let written: Vec<_> = (0..1_500).step_by(3).map(|n| whole(n, 5, u64::from(n), &records)).collect();
    cache.put_keys(Epoch(5), &keyed).await.unwrap();
    cache.write(&written).await.unwrap();
    let names: Vec<_> = (0..1_500).rev().map(name).collect();
    let stamps = cache.stamps(&names).await.unwrap();
    assert_eq!(stamps.len(), names.len());
    for (n, stamp) in (0..1_500_u32).rev().zip(stamps) {
        assert_eq!(stamp.generation, (n % 2 == 0).then_some(7));
        assert_eq!(stamp.mark, (n % 3 == 0).then(|| mark(u64::from(n), &records)));
        assert_eq!(stamp.place, (n % 3 == 0).then(|| (boot(1), head(n, 5).handle)));
    }
}

async fn forgetting_leaves_what_a_higher_epoch_wrote(cache: TestCache) {
    for (n, epoch) in [(1, 5), (2, 6), (3, 7)] {
        cache.put_keys(Epoch(epoch), &[key(n, 1)]).await.unwrap();
        assert_eq!(write(&cache, whole(n, epoch, 10, &[])).await, Applied);
    }
    cache.forget(Epoch(6), &[name(1), name(2), name(3), name(4)]).await.unwrap();
    let dump = cache.dump(10).await.unwrap();
    assert_eq!(dump.legs.iter().map(|cached| cached.head.leg).collect::<Vec<_>>(), [leg(3)]);
    assert_eq!(dump.keys.iter().map(|key| key.leg).collect::<Vec<_>>(), [leg(3)]);
}

async fn a_late_write_does_not_bring_a_forgotten_leg_back(cache: TestCache) {
    assert_eq!(write(&cache, whole(1, 5, 10, &[])).await, Applied);
    cache.forget(Epoch(5), &[name(1)]).await.unwrap();
    assert_eq!(write(&cache, whole(1, 5, 11, &[])).await, Lost);
    cache.put_keys(Epoch(5), &[key(1, 9)]).await.unwrap();
    let dump = cache.dump(10).await.unwrap();
    assert!(dump.legs.is_empty() && dump.keys.is_empty(), "{dump:?}");
    // A later term read the database, which decides.
    assert_eq!(write(&cache, whole(1, 6, 11, &[])).await, Applied);
    cache.put_keys(Epoch(6), &[key(1, 9)]).await.unwrap();
    assert_eq!(generation(&cache, 1).await, Some((6, 9)));
}

async fn forgetting_keys_leaves_the_status(cache: TestCache) {
    cache.put_keys(Epoch(5), &[key(1, 3), key(2, 3)]).await.unwrap();
    assert_eq!(write(&cache, whole(1, 5, 10, &[])).await, Applied);
    cache.forget_keys(&[name(1), name(9)]).await.unwrap();
    assert_eq!((generation(&cache, 1).await, generation(&cache, 2).await), (None, Some((5, 3))));
    assert_holds(&cache, 1, 10, &[]).await;
    cache.put_keys(Epoch(5), &[key(1, 3)]).await.unwrap();
    assert_eq!(generation(&cache, 1).await, Some((5, 3)), "a deleted key may be mirrored again");
}

async fn domains_are_kept_apart(cache: TestCache) {
    let mut elsewhere = whole(1, 5, 20, &[]);
    elsewhere.head.domain = DomainId(8);
    let mut key_elsewhere = key(1, 4);
    key_elsewhere.domain = DomainId(8);
    assert_eq!(cache.write(&[whole(1, 5, 10, &[]), elsewhere]).await.unwrap(), [Applied, Applied]);
    cache.put_keys(Epoch(5), &[key(1, 3), key_elsewhere]).await.unwrap();
    let names: [(DomainId, LegId); 2] = [(DOMAIN, leg(1)), (DomainId(8), leg(1))];
    let revisions: Vec<_> = cache.contents(&names).await.unwrap().iter().map(|cached| cached.mark.revision).collect();
    let generations: Vec<_> = cache.keys(&names).await.unwrap().iter().map(|key| key.generation).collect();
    assert_eq!((revisions, generations), (vec![10, 20], vec![3, 4]));
}

async fn names_are_those_of_the_domains_keys_and_status(cache: TestCache) {
    cache.put_keys(Epoch(5), &[key(1, 1), key(2, 1), key(3, 1)]).await.unwrap();
    for n in [2, 4, 5] {
        assert_eq!(write(&cache, whole(n, 5, 10, &[])).await, Applied);
    }
    cache.forget(Epoch(5), &[name(3), name(5)]).await.unwrap();
    let mut names = cache.names(DOMAIN, 10).await.unwrap();
    names.sort_unstable();
    assert_eq!(names, [leg(1), leg(2), leg(4)]);
    assert_eq!(cache.names(DOMAIN, 2).await.unwrap().len(), 2);
    assert!(cache.names(DomainId(DOMAIN.0 + 1), 10).await.unwrap().is_empty());
}

async fn a_dump_holds_everything_up_to_its_bound(cache: TestCache) {
    let random = &mut random("a_dump");
    let writes: Vec<_> = (0..1_200).map(|n| whole(n, 5, 10, &content(random, 1, 1))).collect();
    let keys: Vec<_> = (500..1_700).map(|n| key(n, 2)).collect();
    cache.write(&writes).await.unwrap();
    cache.put_keys(Epoch(5), &keys).await.unwrap();
    let dump = cache.dump(10_000).await.unwrap();
    let mut legs: Vec<_> = dump.legs.iter().map(|cached| (&cached.head, &cached.changes)).collect();
    legs.sort_by_key(|(head, _)| head.leg);
    assert_eq!(legs, writes.iter().map(|write| (&write.head, &write.changes)).collect::<Vec<_>>());
    let mut secrets: Vec<_> = dump.keys.iter().map(|key| (key.leg, *key.secret.expose())).collect();
    secrets.sort_unstable();
    assert_eq!(secrets, keys.iter().map(|key| (key.leg, *key.secret.expose())).collect::<Vec<_>>());
    let few = cache.dump(100).await.unwrap();
    assert_eq!((few.legs.len(), few.keys.len()), (100, 100));
}

async fn rule_4_of_concurrent_writes_the_highest_stands_whole(cache: TestCache) {
    let random = &mut random("rule_4_of_concurrent_writes");
    let contents: Vec<Vec<Record>> = (0..60).map(|_| content(random, 4, 2)).collect();
    let tasks: Vec<_> = (0..6)
        .map(|task| {
            let cache = Arc::clone(&cache);
            let mine: Vec<_> = (0..10).map(|i| (i * 6 + task, contents[i * 6 + task].clone())).collect();
            tokio::spawn(async move {
                for (n, records) in mine {
                    let revision = n as u64 + 1;
                    let outcome = write(&cache, whole(1, 5, revision, &records)).await;
                    assert!(matches!(outcome, Applied | Lost));
                    cache.put_keys(Epoch(5), &[key(1, revision)]).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_holds(&cache, 1, 60, &contents[59]).await;
    assert_eq!(generation(&cache, 1).await, Some((5, 60)));
}

/// Both caches, driven by the same drawn calls, answer the same and hold the same in the end.
#[tokio::test]
async fn both_caches_decide_alike() {
    let Some(url) = redis_url() else { return };
    let caches: [TestCache; 2] = [Arc::new(MemoryCache::default()), open_cache(&url).unwrap()];
    let random = &mut random("both_caches_decide_alike");
    let mut seen = std::collections::HashMap::<&str, u32>::new();
    let contents: Vec<Vec<Record>> = (0..4).map(|n| content(random, n, 1)).collect();
    for step in 0..4_000_u32 {
        // Other legs every hundred steps: else the highest epoch soon stands everywhere.
        let n = step / 100 * 10 + random.random_range(0..6);
        let epoch = random.random_range(1..4);
        match random.random_range(0..20) {
            0 => {
                for cache in &caches {
                    cache.forget(Epoch(epoch), &[name(n)]).await.unwrap();
                }
            }
            1 => {
                for cache in &caches {
                    cache.forget_keys(&[name(n)]).await.unwrap();
                }
            }
            2..6 => {
                let put = key(n, random.random_range(1..4));
                for cache in &caches {
                    cache.put_keys(Epoch(epoch), std::slice::from_ref(&put)).await.unwrap();
                }
            }
            _ => {
                let revision = random.random_range(0..5);
                let after = &contents[random.random_range(0..4)];
                let mut drawn = if random.random_bool(0.6) {
                    let before = &contents[random.random_range(0..4)];
                    delta(n, epoch, random.random_range(0..5), before, revision, after)
                } else {
                    whole(n, epoch, revision, after)
                };
                drawn.head.boot = boot(random.random_range(1..3));
                drawn.head.state = MeetingState::from(random.random_range(5..8_u8));
                let memory = write(&caches[0], drawn.clone()).await;
                assert_eq!(memory, write(&caches[1], drawn.clone()).await, "step {step}: {drawn:?}");
                let word = match memory {
                    Applied => "applied",
                    Stale => "stale",
                    Lost => "lost",
                };
                *seen.entry(word).or_default() += 1;
            }
        }
        let memory = caches[0].stamps(&[name(n)]).await.unwrap();
        assert_eq!(memory, caches[1].stamps(&[name(n)]).await.unwrap(), "step {step}");
    }
    let [memory, redis] = [caches[0].dump(1_000).await.unwrap(), caches[1].dump(1_000).await.unwrap()];
    assert_eq!((memory.legs, memory.keys), (redis.legs, redis.keys));
    assert!(seen.len() == 3 && seen.values().all(|times| *times > 50), "the draw is one-sided: {seen:?}");
}

/// Rule 17: what does not fit is evicted leg by leg, the one written longest ago first.
#[tokio::test]
async fn rule_17_the_in_process_cache_is_bounded_and_evicts_whole_legs() {
    let records = content(&mut random("rule_17"), 3, 1);
    let entries = records.len() + 2;
    let memory = Arc::new(MemoryCache::bounded(entries * 4));
    let cache: TestCache = memory.clone();
    for n in 0..4 {
        cache.put_keys(Epoch(1), &[key(n, 1)]).await.unwrap();
        assert_eq!(write(&cache, whole(n, 1, 10, &records)).await, Applied);
    }
    assert_eq!(memory.entries(), entries * 4);
    // Leg 0 is written again, so leg 1 is the oldest now.
    assert_eq!(write(&cache, whole(0, 1, 11, &records)).await, Applied);
    assert_eq!(write(&cache, whole(4, 1, 10, &records)).await, Applied);
    let names: Vec<_> = (0..5).map(name).collect();
    let held: Vec<_> = cache.contents(&names).await.unwrap().iter().map(|cached| cached.head.leg).collect();
    assert_eq!(held, [leg(0), leg(2), leg(3), leg(4)]);
    assert!(cache.keys(&[name(1)]).await.unwrap().is_empty());
    // A leg that is larger than the cache is a miss, not a breach of the bound.
    let large = content(&mut random("rule_17, large"), 200, 1);
    assert_eq!(write(&cache, whole(9, 1, 1, &large)).await, Applied);
    assert!(memory.entries() <= entries * 4 && cache.contents(&[name(9)]).await.unwrap().is_empty());
}
