//! Batches on Postgres of which a part fails, and commits whose outcome is unknown.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{Fixture, Kind, content, info, leg_id, present, state};
use crate::store_postgres::{ending, legs, of_holder, options, proxied, trigger};
use crate::store_proxy::NextCommit;
use remeet::model::StoredState::{Ending, InMeeting};
use remeet::store::{Outcome, RAISE, StoreError, StoreOptions, Unit};
use std::time::{Duration, Instant};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_a_lost_commit_is_unknown_and_settling_ends_it() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    legs(&f, 4).await;
    let (proxy, store, token) = proxied(&f, &options()).await;
    let units = [
        Unit::one(state(leg_id(1), 1, InMeeting, Ending)),
        Unit::one(content(leg_id(2), vec![present(1, info("x"))], None, false)),
    ];
    for (next, stands) in [(NextCommit::IsLost, false), (NextCommit::LosesItsAnswer, true)] {
        proxy.next_commit(next);
        let answer = store.write(token, &units).await;
        assert!(matches!(answer, Err(StoreError::Unknown { .. })), "{answer:?}");
        let begun = Instant::now();
        let outcomes = timeout(Duration::from_secs(5), store.settle(token, &units)).await.unwrap().unwrap();
        println!("settled after {:?}", begun.elapsed());
        if !stands {
            assert_eq!(outcomes, [Outcome::Lost { version: 1 + RAISE + 1 }; 2]);
            // Nothing of it is left to commit.
            assert_eq!(f.number(&of_holder(token, "AND state LIKE 'idle in transaction%'")).await, 0);
            assert!(f.content(leg_id(2)).await.1.is_empty());
            // Settled, so the plan is made anew, with a version that fits.
            f.sql("UPDATE legs SET version = 1, state_version = 1").await;
        } else {
            assert_eq!(outcomes, [2, 1].map(|version| Outcome::Applied { version: version + RAISE + 1 }));
        }
    }
    store.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_when_only_part_of_a_call_is_written_the_outcome_is_unknown_and_can_be_settled() {
    let Some(f) = Fixture::with(Kind::Postgres, &StoreOptions { batch_units: 5, ..options() }).await else { return };
    legs(&f, 15).await;
    trigger(&f, 7, "RAISE 'disk full' USING ERRCODE = '53100'").await;
    let units = ending(0..15);
    let answer = f.store.write(f.token, &units).await;
    assert!(matches!(&answer, Err(StoreError::Unknown { reason, .. }) if reason.contains("disk full")), "{answer:?}");
    f.sql("DROP TRIGGER trap ON legs").await;
    let outcomes = f.store.settle(f.token, &units).await.unwrap();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let version = if n < 5 { 2 } else { 1 } + RAISE + 15;
        let expected = if n < 5 { Outcome::Applied { version } } else { Outcome::Lost { version } };
        assert_eq!(outcome, expected, "unit {n}");
    }
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_hits_its_time_out_is_halved() {
    let Some(f) = Fixture::with(Kind::Postgres, &options()).await else { return };
    legs(&f, 40).await;
    // 40 rows take 1.2 s, the statement's limit is 0.75 s.
    f.sql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.03); RETURN NEW; END $$")
        .await;
    f.sql("CREATE TRIGGER slow BEFORE UPDATE ON legs FOR EACH ROW EXECUTE FUNCTION slow()").await;
    assert_eq!(f.write(ending(0..40)).await, [Outcome::Applied { version: 2 }; 40]);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_the_server_refuses_harms_only_its_own_unit() {
    let Some(f) = Fixture::new(Kind::Postgres).await else { return };
    legs(&f, 20).await;
    trigger(&f, 13, "RAISE 'no' USING ERRCODE = '22003'").await;
    let outcomes = f.write(ending(0..20)).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let expected = if n == 13 { Outcome::Lost { version: 1 } } else { Outcome::Applied { version: 2 } };
        assert_eq!(outcome, expected, "unit {n}");
    }
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serialisation_failures_and_deadlocks_are_done_again_as_a_whole() {
    for code in ["40001", "40P01"] {
        let Some(f) = Fixture::new(Kind::Postgres).await else { return };
        legs(&f, 3).await;
        f.sql("CREATE SEQUENCE tries").await;
        trigger(&f, 1, &format!("IF nextval('tries') <= 2 THEN RAISE 'again' USING ERRCODE = '{code}'; END IF")).await;
        assert_eq!(f.write(ending(0..3)).await, [Outcome::Applied { version: 2 }; 3]);
        f.end().await;
    }
}
