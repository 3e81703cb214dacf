//! The lease on Postgres beside writers that are busy, frozen or gone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{Fixture, Kind, LEASE, begin, candidate};
use crate::store_postgres::{of_holder, options, proxied};
use crate::store_proxy::Proxy;
use remeet::store::{Begun, StoreError, open};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::time::{Duration, Instant};

async fn raw(f: &Fixture) -> PgConnection {
    PgConnection::connect(&f.url).await.unwrap()
}

/// A session of the fixture's holder, in the midst of a write.
async fn writer(f: &Fixture) -> PgConnection {
    let mut writer = raw(f).await;
    let name = format!("SET application_name = 'remeet/{}'", f.token.holder);
    writer.execute(AssertSqlSafe(name)).await.unwrap();
    writer.execute("BEGIN; SELECT 1 FROM term FOR SHARE").await.unwrap();
    writer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_waits_for_no_writer_and_for_no_change_of_term_that_waits_for_writers() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.store.renew(f.token, LEASE).await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(writer(&f).await);
    }
    // And one who wants the row for itself and waits for the writers.
    let mut wants = raw(&f).await;
    let waits =
        tokio::spawn(async move { wants.execute("BEGIN; SELECT 1 FROM term FOR UPDATE; ROLLBACK").await.map(drop) });
    let end = Instant::now() + Duration::from_secs(10);
    while f.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").await == 0 {
        assert!(Instant::now() < end, "nobody waits for the row");
    }
    // The writers stay as they are until all is renewed: had a renewal to wait for them, it would fail.
    let mut took = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        f.store.renew(f.token, LEASE).await.unwrap();
        took.push(begun.elapsed());
    }
    took.sort();
    println!("renewals beside four writers: median {:?}, slowest {:?}", took[10], took[19]);
    assert!(!waits.is_finished());
    drop(writers);
    waits.await.unwrap().unwrap();
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_a_holder_whose_lease_stands_are_not_ended() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    let mut writer = writer(&f).await;
    let other = open(&f.url, &options()).unwrap();
    for _ in 0..3 {
        assert!(matches!(other.begin_term(candidate("other")).await.unwrap(), Begun::Held(_)));
    }
    writer.execute("COMMIT").await.unwrap();
    other.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_is_frozen_does_not_stop_the_next_term_once_the_lease_has_run_out() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.sql("UPDATE lease SET expires_at = now() - interval '1 s'").await;
    let mut frozen = raw(&f).await;
    let name = format!("SET application_name = 'remeet/{}'", f.token.holder);
    frozen.execute(AssertSqlSafe(name)).await.unwrap();
    frozen.execute("BEGIN; SELECT 1 FROM lease FOR UPDATE").await.unwrap();
    let other = open(&f.url, &options()).unwrap();
    let begun = Instant::now();
    begin(&*other, "other").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    assert!(frozen.execute("SELECT 1").await.is_err(), "the frozen session was ended");
    other.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_renewed_while_a_begin_waits_is_held() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    f.sql("UPDATE lease SET expires_at = now() - interval '1 s'").await;
    let mut writer = writer(&f).await;
    let other = open(&f.url, &options()).unwrap();
    let (begun, ()) = tokio::join!(other.begin_term(candidate("other")), async {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%term FOR UPDATE'";
        let end = Instant::now() + Duration::from_secs(10);
        while f.number(waits).await == 0 {
            assert!(Instant::now() < end, "the begin does not wait for the row");
        }
        f.store.renew(f.token, LEASE).await.unwrap();
        writer.execute("COMMIT").await.unwrap();
    });
    assert!(matches!(begun.unwrap(), Begun::Held(_)));
    other.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_renewing_session_is_the_holders_is_kept_and_is_replaced_when_it_is_gone_or_silent() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    let (proxy, store, token) = proxied(&f, &options()).await;
    let sessions = of_holder(token, "AND query LIKE '%UPDATE lease%'");
    for _ in 0..3 {
        store.renew(token, LEASE).await.unwrap();
        assert_eq!(f.number(&sessions).await, 1, "one session, and the same");
    }
    // Ended by the server: replaced within the call.
    let name = format!("remeet/{}", token.holder);
    f.number(&format!(
        "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity WHERE application_name = '{name}'"
    ))
    .await;
    store.renew(token, LEASE).await.unwrap();
    // Silent: replaced within the call too.
    proxy.freeze_connections();
    let begun = Instant::now();
    store.renew(token, LEASE).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(2_500), "took {:?}", begun.elapsed());
    // A server that is away: an error in time, a quarter of the lease at most.
    proxy.freeze_connections();
    proxy.refuse(true);
    let begun = Instant::now();
    let answer = store.renew(token, Duration::from_secs(2)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable { .. } | StoreError::Unknown { .. })), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
    proxy.refuse(false);
    store.renew(token, LEASE).await.unwrap();
    store.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_hears_of_a_release_also_after_its_listening_session_was_lost() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    let proxy = Proxy::before(&f.url).await;
    let standby = open(&proxy.url, &options()).unwrap();
    standby.released(Duration::from_secs(1)).await;
    // Other tests' standbys listen too, on databases of their own.
    let listening =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'remeet' AND datname = current_database()";
    assert_eq!(f.number(listening).await, 1);
    standby.released(Duration::from_secs(1)).await;
    assert_eq!(f.number(listening).await, 1, "it is kept");
    // Silent: that wait takes its whole time, the next one listens anew.
    proxy.freeze_connections();
    let begun = Instant::now();
    standby.released(Duration::from_millis(300)).await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let (took, ()) = tokio::join!(
        async {
            let begun = Instant::now();
            standby.released(Duration::from_secs(30)).await;
            begun.elapsed()
        },
        async {
            let end = Instant::now() + Duration::from_secs(10);
            while f.number(&format!("{listening} AND query LIKE '%LEFT JOIN lease%'")).await < 2 {
                assert!(Instant::now() < end, "it does not listen anew");
            }
            f.store.release(f.token).await.unwrap();
        }
    );
    assert!(took < Duration::from_secs(15), "told after {took:?}");
    standby.close().await;
    f.end().await;
}
