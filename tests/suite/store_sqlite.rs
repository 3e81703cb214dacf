//! What is SQLite's own: one file, one writer, many readers, other processes beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{Fixture, Kind, candidate, leg_id, new_leg, state};
use remeet::model::StoredState::{Ending, InMeeting};
use remeet::store::{Outcome, StoreError, StoreOptions, Unit, Write, open};
use sqlx::{Connection, Executor, SqliteConnection};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_5_two_processes_write_one_file_without_busy_errors() {
    let f = Fixture::new(Kind::Sqlite).await.unwrap();
    let other = open(&f.url, &StoreOptions::default()).unwrap();
    let writer = async |store: &dyn remeet::store::Store, from: u32| {
        for n in from..from + 50 {
            let unit = Unit::one(Write::NewLeg(Box::new(new_leg(n, InMeeting))));
            assert_eq!(store.write(f.token, &[unit]).await.unwrap(), [Outcome::Applied { version: 1 }]);
            assert_eq!(store.legs(&[leg_id(n)]).await.unwrap().found.len(), 1);
        }
    };
    tokio::join!(writer(&*f.store, 0), writer(&*other, 100), writer(&*f.store, 200));
    assert_eq!(f.number("SELECT count(*) FROM legs").await, 150);
    other.close().await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_write_lock_is_unavailable_in_time_and_readers_go_on() {
    let options = StoreOptions { write_deadline: Duration::from_millis(800), ..StoreOptions::default() };
    let f = Fixture::with(Kind::Sqlite, &options).await.unwrap();
    let leg = f.leg(1).await;
    let path = f.url.strip_prefix("sqlite:").unwrap();
    let mut locker = SqliteConnection::connect(path).await.unwrap();
    locker.execute("BEGIN IMMEDIATE").await.unwrap();
    let unit = Unit::one(state(leg, 1, InMeeting, Ending));
    let answer = f.store.write(f.token, std::slice::from_ref(&unit)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
    assert_eq!(f.row(leg).await.version, 1);
    locker.execute("ROLLBACK").await.unwrap();
    assert_eq!(f.store.write(f.token, &[unit]).await.unwrap(), [Outcome::Applied { version: 2 }]);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_is_carried_out_and_leaves_no_open_transaction() {
    let f = Fixture::new(Kind::Sqlite).await.unwrap();
    let units: Vec<Unit> = (0..500).map(|n| Unit::one(Write::NewLeg(Box::new(new_leg(n, InMeeting))))).collect();
    let dropped = tokio::time::timeout(Duration::from_millis(1), f.store.write(f.token, &units)).await;
    // Whether it was in time or not: all or nothing stands, and the writer is free.
    f.one(Write::NewLeg(Box::new(new_leg(1000, InMeeting)))).await;
    let count = f.number("SELECT count(*) FROM legs").await;
    assert!(count == 501 || dropped.is_err() && count == 1, "{count} legs");
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_opened_is_an_error_of_the_calls() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&format!("sqlite:{}/none/store.db", dir.path().display()), &StoreOptions::default()).unwrap();
    assert!(store.migrate().await.is_err());
    std::fs::write(dir.path().join("text.db"), "this is not a database, it is a text of some length".repeat(50))
        .unwrap();
    let store = open(&format!("sqlite:{}/text.db", dir.path().display()), &StoreOptions::default()).unwrap();
    assert!(store.migrate().await.is_err());
    let begin = store.begin_term(candidate("node")).await;
    assert!(begin.is_err());
}
