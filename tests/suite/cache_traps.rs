//! What Redis and its client library do when they fail, and what the cache makes of it: a miss, within a
//! deadline, and no longer than the fault lasts. Every test has a Redis of its own, or a proxy before it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::cache_proxy::Proxy;
use crate::cache_records::{content, delta, key, mark, name, random, whole};
use crate::servers::{PrivateRedis, redis_url};
use remeet::store::CacheOutcome::{Applied, Stale};
use remeet::store::redis::{RedisCache, RedisLimits};
use remeet::store::{Cache, CacheError};
use remeet_protocol::Epoch;
use std::time::{Duration, Instant};

/// Short enough for a test, long enough for a machine that compiles beside it.
const LIMITS: RedisLimits = RedisLimits {
    answer: Duration::from_secs(1),
    call: Duration::from_secs(5),
    timeouts: 2,
    rest: Duration::from_millis(100),
};

const PATIENCE: Duration = Duration::from_secs(20);

fn cache(url: &str) -> RedisCache {
    RedisCache::with_limits(url, LIMITS).unwrap()
}

/// Calls until it succeeds; gives the failures before.
async fn until_it_answers(cache: &RedisCache) -> Vec<CacheError> {
    let start = Instant::now();
    let mut failures = Vec::new();
    loop {
        match cache.stamps(&[name(1)]).await {
            Ok(_) => return failures,
            Err(error) => failures.push(error),
        }
        assert!(start.elapsed() < PATIENCE, "still no answer: {failures:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ask<T: redis::FromRedisValue>(url: &str, words: &[&str]) -> T {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap()
}

/// parts.md, measured traps, 3: `ConnectionManager` does not reconnect after time-outs.
#[tokio::test]
async fn trap_a_connection_that_falls_silent_is_replaced_after_two_time_outs() {
    let Some(redis) = PrivateRedis::start() else { return };
    let proxy = Proxy::to(redis.address()).await;
    let cache = cache(&proxy.url());
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    assert_eq!(proxy.accepted(), 1);
    proxy.silence_existing();
    for _ in 0..LIMITS.timeouts {
        let start = Instant::now();
        assert!(cache.keys(&[name(1)]).await.is_err());
        assert!(start.elapsed() < LIMITS.answer + Duration::from_secs(2), "the call has no deadline of its own");
    }
    assert_eq!(cache.keys(&[name(1)]).await.unwrap().len(), 1, "a new connection works at once");
    assert_eq!(proxy.accepted(), 2);
}

/// The trap itself: should a later version of the library mend it, the count may go.
#[tokio::test]
async fn trap_the_librarys_manager_alone_stays_on_a_silent_connection() {
    let Some(redis) = PrivateRedis::start() else { return };
    let proxy = Proxy::to(redis.address()).await;
    let config = redis::aio::ConnectionManagerConfig::new().set_response_timeout(Some(Duration::from_millis(100)));
    let client = redis::Client::open(proxy.url()).unwrap();
    let mut manager = redis::aio::ConnectionManager::new_with_config(client, config).await.unwrap();
    proxy.silence_existing();
    for _ in 0..8 {
        assert!(redis::cmd("PING").query_async::<String>(&mut manager).await.is_err());
    }
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn trap_a_silent_redis_costs_one_deadline_and_then_nothing_until_it_wakes() {
    let Some(redis) = PrivateRedis::start() else { return };
    let cache = cache(&redis.url());
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    redis.freeze();
    let mut at_once = 0;
    for _ in 0..12 {
        let start = Instant::now();
        let error = cache.keys(&[name(1)]).await.unwrap_err();
        assert!(start.elapsed() < LIMITS.answer + Duration::from_secs(2), "{error}");
        at_once += u32::from(error.reason.starts_with("not asked"));
    }
    assert!(at_once >= 6, "every call waited: only {at_once} of 12 failed at once");
    redis.thaw();
    until_it_answers(&cache).await;
    assert_eq!(cache.keys(&[name(1)]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn trap_a_redis_that_is_down_at_start_is_a_miss_and_is_used_when_it_comes() {
    let Some(mut redis) = PrivateRedis::stopped() else { return };
    let cache = cache(&redis.url());
    for _ in 0..3 {
        let start = Instant::now();
        let error = cache.keys(&[name(1)]).await.unwrap_err();
        assert!(start.elapsed() < LIMITS.answer + Duration::from_secs(2));
        assert!(error.to_string().starts_with("read keys: the cache is unavailable"), "{error}");
    }
    redis.start_again();
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.expect("the first call after the start succeeds");
    assert_eq!(cache.keys(&[name(1)]).await.unwrap().len(), 1);
}

/// pitfalls.md, redis: the manager reconnects but does not repeat the command. And a restarted server has
/// forgotten the scripts.
#[tokio::test]
async fn trap_a_restart_between_two_calls_is_not_even_a_miss() {
    let Some(mut redis) = PrivateRedis::start() else { return };
    let cache = cache(&redis.url());
    assert_eq!(cache.write(&[whole(1, 1, 10, &[])]).await.unwrap(), [Applied]);
    redis.kill();
    redis.start_again();
    let outcomes = cache.write(&[delta(1, 1, 10, &[], 11, &[]), whole(2, 1, 10, &[])]).await.unwrap();
    assert_eq!(outcomes, [Stale, Applied], "what a restart lost is refilled whole");
}

#[tokio::test]
async fn trap_flushed_scripts_are_loaded_again_in_mid_call() {
    // Its own: scripts belong to all databases of a server, and other tests use theirs.
    let Some(redis) = PrivateRedis::start() else { return };
    let url = redis.url();
    let cache = cache(&url);
    for round in 0..3_u64 {
        let () = ask(&url, &["SCRIPT", "FLUSH"]).await;
        let writes: Vec<_> = (0..2_500).map(|n| whole(n, 1, 10 + round, &[])).collect();
        assert!(cache.write(&writes).await.unwrap().iter().all(|outcome| *outcome == Applied));
        cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
        let () = ask(&url, &["SCRIPT", "FLUSH"]).await;
        cache.forget(Epoch(1), &[name(9_999)]).await.unwrap();
    }
}

/// The library's default response time-out of 500 ms must not cut our own deadline short.
#[tokio::test]
async fn trap_an_answer_after_600_ms_is_waited_for_if_the_deadline_allows() {
    let Some(redis) = PrivateRedis::start() else { return };
    let patient = RedisLimits { answer: Duration::from_secs(8), ..LIMITS };
    let cache = RedisCache::with_limits(&redis.url(), patient).unwrap();
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    assert_eq!(redis.ask("CLIENT PAUSE 700 ALL"), "+OK");
    let start = Instant::now();
    assert_eq!(cache.keys(&[name(1)]).await.unwrap().len(), 1);
    assert!(start.elapsed() > Duration::from_millis(550), "the pause was not in the way: {:?}", start.elapsed());
}

/// pitfalls.md, redis: a SET that timed out may land later: it is compared when it lands.
#[tokio::test]
async fn trap_a_write_that_lands_late_loses_to_what_was_written_meanwhile() {
    let Some(redis) = PrivateRedis::start() else { return };
    let proxy = Proxy::to(redis.address()).await;
    let (slow, quick) = (cache(&proxy.url()), cache(&redis.url()));
    slow.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    assert_eq!(slow.write(&[whole(1, 1, 9, &[])]).await.unwrap(), [Applied]);
    quick.put_keys(Epoch(1), &[key(3, 1)]).await.unwrap();

    proxy.silence_existing();
    assert!(slow.put_keys(Epoch(1), &[key(1, 2), key(2, 2)]).await.is_err());
    // Through the same silent connection: the manager is replaced only after this one.
    assert!(slow.write(&[whole(1, 1, 10, &[]), whole(2, 1, 10, &[])]).await.is_err());
    quick.put_keys(Epoch(1), &[key(1, 3)]).await.unwrap();
    assert_eq!(quick.write(&[whole(1, 1, 11, &[])]).await.unwrap(), [Applied]);

    proxy.release();
    let start = Instant::now();
    // Leg 2, written by nobody else, tells that the late writes have landed.
    while quick.stamps(&[name(2)]).await.unwrap()[0].mark.is_none() {
        assert!(start.elapsed() < PATIENCE, "the late write never landed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stamps = quick.stamps(&[name(1), name(2)]).await.unwrap();
    assert_eq!((stamps[0].generation, stamps[0].mark), (Some(3), Some(mark(11, &[]))));
    assert_eq!((stamps[1].generation, stamps[1].mark), (Some(2), Some(mark(10, &[]))));
}

#[tokio::test]
async fn trap_readonly_fails_writes_only_and_is_no_time_out() {
    let Some(redis) = PrivateRedis::start() else { return };
    let cache = cache(&redis.url());
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    // A replica of nobody, as a server is that was demoted by a failover.
    assert_eq!(redis.ask("REPLICAOF 127.0.0.1 1"), "+OK");
    let error = cache.put_keys(Epoch(1), &[key(1, 2)]).await.unwrap_err();
    assert!(error.reason.contains("READONLY"), "{error}");
    let error = cache.write(&[whole(1, 1, 10, &[])]).await.unwrap_err();
    assert!(error.reason.contains("READONLY"), "{error}");
    assert_eq!(cache.keys(&[name(1)]).await.unwrap()[0].generation, 1);
    assert_eq!(redis.ask("REPLICAOF NO ONE"), "+OK");
    cache.put_keys(Epoch(1), &[key(1, 2)]).await.unwrap();
}

#[tokio::test]
async fn trap_oom_leaves_what_stands_whole() {
    let Some(redis) = PrivateRedis::start() else { return };
    let cache = cache(&redis.url());
    let records = content(&mut random("trap_oom"), 4, 2);
    assert_eq!(cache.write(&[whole(1, 1, 10, &records)]).await.unwrap(), [Applied]);
    assert_eq!(redis.ask("CONFIG SET maxmemory-policy noeviction"), "+OK");
    assert_eq!(redis.ask("CONFIG SET maxmemory 1"), "+OK");
    for write in [whole(2, 1, 10, &records), delta(1, 1, 10, &records, 11, &records[..2])] {
        let error = cache.write(&[write]).await.unwrap_err();
        assert!(error.reason.contains("OOM"), "{error}");
    }
    let error = cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap_err();
    assert!(error.reason.contains("OOM"), "{error}");
    let held = cache.contents(&[name(1), name(2)]).await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!((held[0].mark, held[0].changes.len()), (mark(10, &records), records.len()));
    assert_eq!(redis.ask("CONFIG SET maxmemory 0"), "+OK");
    assert_eq!(cache.write(&[delta(1, 1, 10, &records, 11, &records[..2])]).await.unwrap(), [Applied]);
}

/// The library's manager keeps for ever the refusal of a connection that was made but not admitted.
#[tokio::test]
async fn trap_a_refused_password_is_tried_anew_at_the_next_call_and_never_shown() {
    let Some(redis) = PrivateRedis::start() else { return };
    let cache = cache(&redis.url().replace("redis://", "redis://:hunter2@"));
    let error = cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    assert_eq!(redis.ask("CONFIG SET requirepass hunter2"), "+OK");
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
}

#[tokio::test]
async fn trap_loading_is_a_miss_until_the_data_set_is_loaded() {
    let Some(mut redis) = PrivateRedis::start_with(&["--save", "3600 1"]) else { return };
    let cache = cache(&redis.url_of(1));
    cache.put_keys(Epoch(1), &(0..3_000).map(|n| key(n, 1)).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(redis.ask("SAVE"), "+OK");
    redis.kill();
    // 0.5 ms a name: it loads for more than a second, and answers meanwhile.
    redis.slow_loading();
    redis.launch();
    let failures = until_it_answers(&cache).await;
    assert!(failures.iter().any(|error| error.reason.contains("LOADING")), "{failures:?}");
    assert_eq!(cache.keys(&[name(1), name(2_999)]).await.unwrap().len(), 2);
}

/// pitfalls.md, redis: eviction removes names in silence.
#[tokio::test]
async fn trap_a_wiped_cache_is_absent_not_an_error_and_takes_whole_writes() {
    let Some(url) = redis_url() else { return };
    let cache = cache(&url);
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    assert_eq!(cache.write(&[whole(1, 1, 10, &[])]).await.unwrap(), [Applied]);
    let () = ask(&url, &["FLUSHDB"]).await;
    assert!(cache.keys(&[name(1)]).await.unwrap().is_empty());
    assert_eq!(cache.stamps(&[name(1)]).await.unwrap()[0].mark, None);
    assert_eq!(cache.write(&[delta(1, 1, 10, &[], 11, &[])]).await.unwrap(), [Stale]);
    assert_eq!(cache.write(&[whole(1, 1, 11, &[])]).await.unwrap(), [Applied]);
}

/// One name that holds nonsense is a miss for its leg, harms no other, and is mended by the next write.
#[tokio::test]
async fn one_unreadable_name_is_one_miss_and_is_replaced() {
    let Some(url) = redis_url() else { return };
    let cache = cache(&url);
    let legs = [name(1), name(2), name(3)];
    let at = |kind: &str, n: u32| format!("remeet:{{7}}:{kind}:{}:0", name(n).1.meeting);
    for nonsense in [
        &["SET", "X", "text"][..],
        &["HSET", "X", "epoch", "99999999999999999999999", "generation", "x", "revision", "9"],
        &["HSET", "X", "epoch", "99", "t:1", "{}"],
    ] {
        cache.put_keys(Epoch(1), &[key(1, 1), key(2, 1), key(3, 1)]).await.unwrap();
        let writes: Vec<_> = (1..4).map(|n| whole(n, 1, 10, &[])).collect();
        cache.write(&writes).await.unwrap();
        for kind in ["key", "leg"] {
            let place = at(kind, 2);
            let () = ask(&url, &["DEL", &place]).await;
            let words: Vec<_> = nonsense.iter().map(|word| if *word == "X" { place.as_str() } else { word }).collect();
            let _: redis::Value = ask(&url, &words).await;
        }
        assert_eq!(cache.keys(&legs).await.unwrap().len(), 2, "{nonsense:?}");
        assert_eq!(cache.contents(&legs).await.unwrap().len(), 2, "{nonsense:?}");
        let stamps = cache.stamps(&legs).await.unwrap();
        assert_eq!(stamps.iter().map(|stamp| stamp.mark.is_some()).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(cache.dump(10).await.unwrap().legs.len(), 2);
        let again: Vec<_> = (1..4).map(|n| whole(n, 1, 11, &[])).collect();
        assert_eq!(cache.write(&again).await.unwrap(), [Applied; 3], "{nonsense:?}");
        cache.put_keys(Epoch(1), &[key(2, 1)]).await.unwrap();
        assert_eq!((cache.keys(&legs).await.unwrap().len(), cache.contents(&legs).await.unwrap().len()), (3, 3));
        let () = ask(&url, &["FLUSHDB"]).await;
    }
}

/// Records carry a version: what another release wrote in another format is a miss, and is replaced whole; what the
/// first release wrote without one is read.
#[tokio::test]
async fn what_is_cached_in_another_format_is_a_miss_and_is_replaced() {
    let Some(url) = redis_url() else { return };
    let cache = cache(&url);
    let at = |kind: &str| format!("remeet:{{7}}:{kind}:{}:0", name(1).1.meeting);
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    cache.write(&[whole(1, 1, 10, &[])]).await.unwrap();
    for kind in ["key", "leg"] {
        let () = ask(&url, &["HDEL", &at(kind), "format"]).await;
    }
    assert_eq!((cache.keys(&[name(1)]).await.unwrap().len(), cache.contents(&[name(1)]).await.unwrap().len()), (1, 1));
    assert!(cache.stamps(&[name(1)]).await.unwrap()[0].mark.is_some());
    for kind in ["key", "leg"] {
        let _: i64 = ask(&url, &["HSET", &at(kind), "format", "2"]).await;
    }
    assert_eq!((cache.keys(&[name(1)]).await.unwrap().len(), cache.contents(&[name(1)]).await.unwrap().len()), (0, 0));
    let stamp = cache.stamps(&[name(1)]).await.unwrap()[0];
    assert_eq!((stamp.generation, stamp.mark), (None, None));
    // Nothing is added to what cannot be read, also if the marks fit.
    assert_eq!(cache.write(&[delta(1, 1, 10, &[], 11, &[])]).await.unwrap(), [Stale]);
    assert_eq!(cache.write(&[whole(1, 1, 10, &[])]).await.unwrap(), [Applied]);
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    assert_eq!((cache.keys(&[name(1)]).await.unwrap().len(), cache.contents(&[name(1)]).await.unwrap().len()), (1, 1));
}

/// Names that are not the cache's own are not its business.
#[tokio::test]
async fn foreign_names_are_neither_dumped_nor_touched() {
    let Some(url) = redis_url() else { return };
    let cache = cache(&url);
    for foreign in ["remeet:{7}:leg:nonsense", "remeet:{x}:key:1:2", "other"] {
        let () = ask(&url, &["SET", foreign, "1"]).await;
    }
    cache.put_keys(Epoch(1), &[key(1, 1)]).await.unwrap();
    let dump = cache.dump(10).await.unwrap();
    assert_eq!((dump.legs.len(), dump.keys.len()), (0, 1));
    let names: u32 = ask(&url, &["DBSIZE"]).await;
    assert_eq!(names, 4);
}

/// The layout that the documentation promises to whoever reads with plain commands.
#[tokio::test]
async fn an_independent_reader_finds_the_documented_layout() {
    let Some(url) = redis_url() else { return };
    let cache = cache(&url);
    let records = content(&mut random("an_independent_reader"), 2, 1);
    cache.put_keys(Epoch(4), &[key(1, 6)]).await.unwrap();
    cache.write(&[whole(1, 4, 10, &records)]).await.unwrap();
    let meeting = "00000000-0000-0000-0000-000000000001";

    let held: std::collections::BTreeMap<String, String> =
        ask(&url, &["HGETALL", &format!("remeet:{{7}}:key:{meeting}:0")]).await;
    let expected = [
        ("creator", "1001"),
        ("creator_name", "Ánna"),
        ("domain", "7"),
        ("epoch", "4"),
        ("format", "1"),
        ("generation", "6"),
        ("made_at_ms", "1700000000000"),
        ("number", "8801"),
        ("secret", "00000000000000010000000000000006"),
        ("server", "3"),
        ("title", "Morning round: \"west\"\n"),
    ];
    assert_eq!(held.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect::<Vec<_>>(), expected);

    let mut held: std::collections::BTreeMap<String, String> =
        ask(&url, &["HGETALL", &format!("remeet:{{7}}:leg:{meeting}:0")]).await;
    let digest = mark(10, &records).digest.to_string();
    for (field, value) in [
        ("format", "1"),
        ("epoch", "4"),
        ("domain", "7"),
        ("server", "3"),
        ("boot", "01010101-0101-0101-0101-010101010101"),
        ("handle", "41"),
        ("state", "in-meeting"),
        ("revision", "10"),
        ("count", &records.len().to_string()),
        ("digest", &digest),
    ] {
        assert_eq!(held.remove(field).as_deref(), Some(value), "{field}");
    }
    assert_eq!(held.len(), records.len());
    assert!(held.contains_key("t:0") && held.contains_key("t:a%3A1") && held.contains_key("e:a%3A1:b:0%"));
    let leg: serde_json::Value = serde_json::from_str(&held["leg"]).unwrap();
    assert_eq!((leg["revision"].as_u64(), leg["record"]["leg"]["number"].as_str()), (Some(10), Some("8801")));
    let terminal: serde_json::Value = serde_json::from_str(&held["t:0"]).unwrap();
    assert_eq!(terminal["record"]["terminal"]["home_domain"].as_u64(), Some(7));
}
