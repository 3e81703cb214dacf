//! The lease: who may begin a term, and when. Contract tests; the list of all is in store_contract.rs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{Fixture, Kind, LEASE, begin, candidate, granted, leg_id};
use remeet::store::{
    Begun, Call, Candidate, FailingStore, Failure, Outcome, Store, StoreError, StoreOptions, Unit, Write, open,
};
use remeet_protocol::{Epoch, Token};
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn left(store: &dyn Store) -> Duration {
    store.standing().await.unwrap().unwrap().remaining
}

/// The lease that stands ends this far from now.
async fn set_left(f: &Fixture, seconds: i64) {
    f.sql(&match f.kind {
        Kind::Sqlite => {
            format!("UPDATE lease SET expires_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '{seconds} seconds')")
        }
        Kind::Postgres => format!("UPDATE lease SET expires_at = now() + interval '{seconds} seconds'"),
    })
    .await;
}

fn fenced(answer: &Result<(), StoreError>, of: Token) -> bool {
    matches!(answer, Err(StoreError::Fenced { token }) if *token == of)
}

pub(crate) async fn a_lease_that_stands_keeps_other_nodes_out_and_its_own_node_is_granted_at_once(f: &Fixture) {
    let Begun::Held(standing) = f.store.begin_term(candidate("other")).await.unwrap() else { panic!("granted") };
    assert_eq!((standing.token, standing.node.as_str()), (f.token, "node"));
    assert!(standing.remaining <= LEASE && standing.remaining > LEASE - Duration::from_secs(60), "{standing:?}");
    assert_eq!(f.store.standing().await.unwrap().unwrap().token, f.token, "nothing has changed");
    // Asking for an epoch above does not help.
    let above = Candidate { epoch_above: Epoch(1000), ..candidate("other") };
    assert!(matches!(f.store.begin_term(above).await.unwrap(), Begun::Held(_)));
    let restarted = begin(&*f.store, "node").await;
    assert_eq!(restarted.epoch, Epoch(f.token.epoch.0 + 1));
    assert!(left(&*f.store).await > LEASE - Duration::from_secs(60), "with a lease of its own");
}

pub(crate) async fn a_lease_that_has_run_out_keeps_nobody_out(f: &Fixture) {
    set_left(f, -1).await;
    assert_eq!(left(&*f.store).await, Duration::ZERO);
    let short = Candidate { lease: Duration::from_millis(300), ..candidate("other") };
    granted(f.store.begin_term(short).await.unwrap());
    // By the clock, without anybody's doing.
    let begun = Instant::now();
    let token = loop {
        match f.store.begin_term(candidate("third")).await.unwrap() {
            Begun::Granted(token) => break token,
            Begun::Held(standing) => assert!(standing.remaining <= Duration::from_millis(300)),
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(token.epoch, Epoch(f.token.epoch.0 + 2));
}

pub(crate) async fn a_lease_of_a_clock_that_was_set_back_keeps_nobody_out(f: &Fixture) {
    set_left(f, 3_600).await;
    assert_eq!(left(&*f.store).await, Duration::ZERO);
    begin(&*f.store, "other").await;
}

pub(crate) async fn a_released_lease_is_told_and_granted_at_once(f: &Fixture) {
    let standby = open(&f.url, &StoreOptions::default()).unwrap();
    // Twice: the second wait finds the connection of the first.
    for (node, token) in [("node", f.token), ("standby", Token::default())] {
        let token = if node == "standby" { f.store.standing().await.unwrap().unwrap().token } else { token };
        let waits = async {
            let begun = Instant::now();
            standby.released(Duration::from_secs(30)).await;
            assert!(begun.elapsed() < Duration::from_secs(20), "told after {:?}", begun.elapsed());
        };
        let releases = async {
            // Whether it listens already or not: it hears of it.
            tokio::time::sleep(Duration::from_millis(50)).await;
            f.store.release(token).await.unwrap();
        };
        tokio::join!(waits, releases);
        assert_eq!(left(&*f.store).await, Duration::ZERO);
        let next = begin(&*standby, "standby").await;
        assert_eq!(next.epoch, Epoch(token.epoch.0 + 1));
    }
    standby.close().await;
}

pub(crate) async fn a_released_lease_is_not_renewed_and_its_term_still_writes(f: &Fixture) {
    let leg = f.leg(1).await;
    f.store.release(f.token).await.unwrap();
    f.store.release(f.token).await.unwrap();
    // A renewal that was asked before and comes after.
    assert!(fenced(&f.store.renew(f.token, LEASE).await, f.token));
    assert_eq!(left(&*f.store).await, Duration::ZERO);
    assert!(matches!(f.one(Write::First(leg, true)).await, Outcome::Applied { .. }));
}

pub(crate) async fn a_wait_for_a_release_ends_in_time_and_when_the_lease_runs_out(f: &Fixture) {
    for _ in 0..2 {
        let begun = Instant::now();
        f.store.released(Duration::from_millis(300)).await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    }
    f.store.renew(f.token, Duration::from_millis(500)).await.unwrap();
    let begun = Instant::now();
    f.store.released(Duration::from_secs(60)).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(left(&*f.store).await, Duration::ZERO);
}

pub(crate) async fn a_renewal_makes_the_lease_last_also_when_it_had_run_out(f: &Fixture) {
    f.store.renew(f.token, Duration::from_secs(60)).await.unwrap();
    let shorter = left(&*f.store).await;
    assert!(shorter <= Duration::from_secs(60) && shorter > Duration::from_secs(10), "{shorter:?}");
    set_left(f, -5).await;
    f.store.renew(f.token, LEASE).await.unwrap();
    assert!(left(&*f.store).await > Duration::from_secs(60));
    assert!(matches!(f.store.begin_term(candidate("other")).await.unwrap(), Begun::Held(_)));
}

pub(crate) async fn rule_5_a_renewal_or_release_of_an_older_term_is_fenced_and_leaves_the_newer_lease(f: &Fixture) {
    let short = Candidate { lease: Duration::from_secs(100), ..candidate("node") };
    let newer = granted(f.store.begin_term(short).await.unwrap());
    assert!(fenced(&f.store.renew(f.token, LEASE).await, f.token));
    let standing = f.store.standing().await.unwrap().unwrap();
    assert!(standing.remaining <= Duration::from_secs(100), "{standing:?}");
    assert!(fenced(&f.store.release(f.token).await, f.token));
    assert!(left(&*f.store).await > Duration::from_secs(10));
    assert!(matches!(f.store.begin_term(candidate("other")).await.unwrap(), Begun::Held(_)));
    // Nor one of the same epoch that was never granted.
    let forged = Token { epoch: newer.epoch, holder: f.token.holder };
    assert!(fenced(&f.store.renew(forged, LEASE).await, forged));
    assert!(fenced(&f.store.release(forged).await, forged));
    assert!(left(&*f.store).await > Duration::from_secs(10));
    f.store.renew(newer, LEASE).await.unwrap();
}

async fn one_of_many(f: &Fixture) {
    let nodes: Vec<String> = (0..6).map(|n| format!("node {n}")).collect();
    let stores: Vec<Arc<dyn Store>> = nodes.iter().map(|_| open(&f.url, &StoreOptions::default()).unwrap()).collect();
    let begins = stores.iter().zip(&nodes).map(|(store, node)| store.begin_term(candidate(node)));
    let begun: Vec<Begun> = futures_util::future::join_all(begins).await.into_iter().map(Result::unwrap).collect();
    let tokens: Vec<Token> =
        begun.iter().filter_map(|begun| if let Begun::Granted(token) = begun { Some(*token) } else { None }).collect();
    let [token] = tokens[..] else { panic!("{begun:?}") };
    for begun in begun {
        assert!(matches!(&begun, Begun::Granted(_)) || matches!(&begun, Begun::Held(held) if held.token == token));
    }
    assert_eq!(f.store.standing().await.unwrap().unwrap().token, token);
    for store in stores {
        store.close().await;
    }
}

pub(crate) async fn of_many_nodes_at_once_exactly_one_begins(f: &Fixture) {
    f.store.release(f.token).await.unwrap();
    one_of_many(f).await;
}

pub(crate) async fn a_first_term_is_begun_by_exactly_one_of_many_nodes(f: &Fixture) {
    f.sql("DELETE FROM term").await;
    f.sql("DELETE FROM lease").await;
    one_of_many(f).await;
}

pub(crate) async fn a_term_without_a_lease_of_its_own_keeps_nobody_out(f: &Fixture) {
    // As the release before began it: the lease's row is of an older term.
    f.sql("UPDATE term SET epoch = epoch + 1").await;
    assert_eq!(left(&*f.store).await, Duration::ZERO);
    begin(&*f.store, "other").await;
    f.sql("DELETE FROM lease").await;
    begin(&*f.store, "third").await;
    assert!(left(&*f.store).await > Duration::ZERO);
}

pub(crate) async fn what_the_node_is_called_comes_back(f: &Fixture) {
    begin(&*f.store, "node").await;
    f.sql("DELETE FROM term").await;
    begin(&*f.store, "a\0b\u{E000}").await;
    let Begun::Held(standing) = f.store.begin_term(candidate("node")).await.unwrap() else { panic!("granted") };
    assert_eq!(standing.node, "a\0b\u{E000}");
    begin(&*f.store, "a\0b\u{E000}").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_store_fails_the_calls_of_the_lease_as_told() {
    let f = Fixture::new(Kind::Sqlite).await.unwrap();
    let failing = FailingStore::new(Arc::clone(&f.store));
    failing.fail_next(Call::Renew, Failure::Unavailable);
    assert!(matches!(failing.renew(f.token, LEASE).await, Err(StoreError::Unavailable { .. })));
    failing.fail_next(Call::Renew, Failure::Fenced);
    assert!(fenced(&failing.renew(f.token, LEASE).await, f.token));
    failing.renew(f.token, LEASE).await.unwrap();
    failing.fail_next(Call::Standing, Failure::Unavailable);
    assert!(failing.standing().await.is_err());
    failing.fail_next(Call::Release, Failure::UnknownDone);
    assert!(matches!(failing.release(f.token).await, Err(StoreError::Unknown { .. })));
    assert_eq!(left(&failing).await, Duration::ZERO);
    // Nothing holds any more, so it would return at once; told to fail, it takes the whole time.
    failing.fail_next(Call::Released, Failure::Unavailable);
    let begun = Instant::now();
    failing.released(Duration::from_millis(200)).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    failing.fail_next(Call::BeginTerm, Failure::UnknownDone);
    assert!(matches!(failing.begin_term(candidate("other")).await, Err(StoreError::Unknown { .. })));
    assert_eq!(failing.standing().await.unwrap().unwrap().node, "other");
    let units = [Unit::one(Write::First(leg_id(1), true))];
    assert!(matches!(failing.write(f.token, &units).await, Err(StoreError::Fenced { .. })));
    assert_eq!((failing.calls(Call::Renew), failing.calls(Call::Released)), (3, 1));
    f.end().await;
}
