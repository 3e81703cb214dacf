//! How long the cache takes for 10,000 legs of 10 terminals, which recovery waits for.
//!
//! The goals are printed beside what was measured; the test fails only at four times a goal, because
//! machines that test are shared.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::cache_records::{changed, content, delta, key, name, random, whole};
use crate::servers::redis_url;
use remeet::store::memory::MemoryCache;
use remeet::store::{Cache, CacheOutcome, open_cache};
use remeet_protocol::Epoch;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LEGS: u32 = 10_000;

#[tokio::test]
async fn ten_thousand_legs_redis() {
    let Some(url) = redis_url() else { return };
    measure("redis", open_cache(&url).unwrap()).await;
}

#[tokio::test]
async fn ten_thousand_legs_memory() {
    measure("memory", Arc::new(MemoryCache::default())).await;
}

async fn measure(which: &str, cache: Arc<dyn Cache>) {
    let random = &mut random(which);
    let shapes: Vec<_> = (0..50)
        .map(|_| {
            let before = content(random, 10, 1);
            let after = changed(random, &before);
            (before, after)
        })
        .collect();
    let shape = |n: u32| &shapes[n as usize % shapes.len()];
    let keys: Vec<_> = (0..LEGS).map(|n| key(n, 1)).collect();
    let wholes: Vec<_> = (0..LEGS).map(|n| whole(n, 1, 10, &shape(n).0)).collect();
    let deltas: Vec<_> = (0..LEGS).map(|n| delta(n, 1, 10, &shape(n).0, 12, &shape(n).1)).collect();
    let names: Vec<_> = (0..LEGS).map(name).collect();
    let report = |what: &str, start: Instant, goal_ms: u64| {
        let took = start.elapsed();
        println!("{which}: {what} of {LEGS} legs: {:.3} s (goal {:.3} s)", took.as_secs_f64(), goal_ms as f64 / 1e3);
        assert!(took < Duration::from_millis(goal_ms * 4), "{what} took {took:?}");
    };

    let start = Instant::now();
    cache.put_keys(Epoch(1), &keys).await.unwrap();
    report("put_keys", start, 1_000);

    let start = Instant::now();
    assert!(cache.write(&wholes).await.unwrap().iter().all(|outcome| *outcome == CacheOutcome::Applied));
    report("whole writes", start, 3_000);

    let start = Instant::now();
    assert_eq!(cache.keys(&names).await.unwrap().len(), names.len());
    report("keys", start, 150);

    let start = Instant::now();
    assert!(cache.stamps(&names).await.unwrap().iter().all(|stamp| stamp.mark.is_some()));
    report("stamps", start, 300);

    let start = Instant::now();
    assert!(cache.write(&deltas).await.unwrap().iter().all(|outcome| *outcome == CacheOutcome::Applied));
    report("delta writes", start, 1_000);

    let start = Instant::now();
    assert!(cache.write(&deltas).await.unwrap().iter().all(|outcome| *outcome == CacheOutcome::Applied));
    report("delta writes again, nothing to write", start, 1_000);

    let start = Instant::now();
    assert_eq!(cache.contents(&names).await.unwrap().len(), names.len());
    report("contents", start, 3_000);
}
