//! Figures of the bulk paths, printed without limits: `cargo test --release --test suite store_speed -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{
    Fixture, Kind, accepted, content, entry, info, leg_id, mark_of, new_leg, present, takeover, terminal,
};
use remeet::model::StoredState::InMeeting;
use remeet::store::{Outcome, Unit, Write};
use remeet_protocol::{Change, LegId, ServerId};
use std::time::Instant;

const LEGS: u32 = 10_000;

fn timed<T>(kind: Kind, what: &str, begun: Instant, value: T) -> T {
    println!("{kind:?}: {what}: {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
    value
}

async fn measure(kind: Kind, legs: u32) {
    let Some(f) = Fixture::new(kind).await else { return };
    let units: Vec<Unit> = (0..legs).map(|n| Unit::one(Write::NewLeg(Box::new(new_leg(n, InMeeting))))).collect();
    let begun = Instant::now();
    let outcomes = timed(kind, &format!("{legs} new legs with keys"), begun, f.write(units).await);
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied { version: 1 }));
    if kind == Kind::Postgres {
        f.sql("VACUUM ANALYZE").await;
    }
    for round in 0..2 {
        let begun = Instant::now();
        let look_up = f.store.look_up(ServerId(1), &[]).await.unwrap();
        let look_up = timed(kind, &format!("look-up of {legs} legs with keys, round {round}"), begun, look_up);
        assert_eq!(look_up.found.len(), legs as usize);
        let named: Vec<LegId> = (0..legs).map(leg_id).collect();
        let begun = Instant::now();
        let look_up = timed(kind, &format!("{legs} named legs"), begun, f.store.legs(&named).await.unwrap());
        assert_eq!(look_up.found.len(), legs as usize);
        let version = 1 + round;
        let states: Vec<Unit> =
            (0..legs).map(|n| Unit::one(takeover(leg_id(n), version, accepted(f.token, 1, false)))).collect();
        let begun = Instant::now();
        let outcomes = timed(kind, &format!("{legs} takeovers (compare-and-set)"), begun, f.write(states).await);
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied { version: version + 1 }));
        let contents: Vec<Unit> = (0..legs)
            .map(|n| {
                let revision = 10 * (round + 1);
                let changes = vec![
                    present(revision + 1, info("Weekly")),
                    present(revision + 2, terminal("1", "Anna")),
                    present(revision + 3, entry("1", "captions", b"on")),
                ];
                let mark = mark_of(revision + 3, &changes);
                Unit::one(content(leg_id(n), changes, Some(mark), false))
            })
            .collect();
        let begun = Instant::now();
        let outcomes = timed(kind, &format!("{legs} contents of 3 records"), begun, f.write(contents).await);
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied { version: 0 }));
    }
    let many = legs / 10;
    let contents: Vec<Unit> = (0..many)
        .map(|n| {
            let changes: Vec<Change> = (0..10u64)
                .flat_map(|t| {
                    let number = t.to_string();
                    [present(100 + t, terminal(&number, "Anna")), present(200 + t, entry(&number, "seat", b"4"))]
                })
                .collect();
            Unit::one(content(leg_id(n), changes, None, false))
        })
        .collect();
    let begun = Instant::now();
    timed(kind, &format!("{many} contents of 20 records"), begun, f.write(contents).await);
    let named: Vec<LegId> = (0..many).map(leg_id).collect();
    let begun = Instant::now();
    let contents = f.store.contents(&named).await.unwrap();
    let contents = timed(kind, &format!("reading {many} legs with 10 terminals, 22 records each"), begun, contents);
    assert_eq!(contents.len(), many as usize);
    assert!(contents.iter().all(|content| content.changes.len() == 22));
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_figures() {
    measure(Kind::Postgres, LEGS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_figures() {
    measure(Kind::Sqlite, LEGS / 5).await;
}
