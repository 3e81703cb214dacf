//! Both stores do the same: random batches, the same outcomes and the same rows. SQLite writes units one after
//! the other, Postgres in waves of bulk statements.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{
    Fixture, Kind, accepted, content, entry, info, leg_id, new_leg, present, removed, seeded, terminal, window,
};
use crate::store_intents::{answer, done, intent};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use remeet::model::{RecoveryKey, StoredState};
use remeet::store::{ContentWrite, Expect, StateWrite, Unit, Write};
use remeet_protocol::message::EndCause;
use remeet_protocol::record::Mark;
use remeet_protocol::{Change, LegId, Secret, ServerId, Token};
use std::collections::HashMap;

const LEGS: u32 = 6;

/// Makes units of which many fit.
struct Maker {
    random: ChaCha8Rng,
    token: Token,
    /// What the legs would be if every unit fitted.
    guess: HashMap<LegId, (u64, StoredState)>,
}

impl Maker {
    fn unit(&mut self) -> Unit {
        let count = if self.random.random_bool(0.3) { self.random.random_range(2..4) } else { 1 };
        let leg = leg_id(self.random.random_range(0..LEGS));
        let mut writes: Vec<Write> = Vec::new();
        for _ in 0..count {
            writes.push(self.write(leg));
        }
        Unit { writes }
    }

    fn write(&mut self, leg: LegId) -> Write {
        let n = u32::try_from(leg.meeting.0.as_u128() & 0xffff).unwrap();
        match self.random.random_range(0..12) {
            0 => {
                self.guess.insert(leg, (1, StoredState::Created));
                Write::NewLeg(Box::new(new_leg(n, StoredState::Created)))
            }
            1..=3 => self.state(leg),
            4..=6 => Write::Content(self.content(leg)),
            7 => Write::Intent(Box::new(intent(leg, self.random.random_range(1..8), Some((3, 1))))),
            8 => Write::IntentDone(done(leg, self.random.random_range(1..8))),
            9 => Write::Answer(answer(self.random.random_range(1..3), self.random.random_range(1..400), 1)),
            10 => Write::Quarantine(leg, self.random.random_bool(0.5).then(|| "why".to_owned())),
            _ => {
                let generation = self.random.random_range(1..6);
                let secret = Secret::new([self.random.random_range(0..2); 16]);
                Write::Key(Box::new(RecoveryKey { generation, secret, ..new_leg(n, StoredState::Created).key }))
            }
        }
    }

    fn state(&mut self, leg: LegId) -> Write {
        let (version, from) = self.guess.get(&leg).copied().unwrap_or((1, StoredState::Created));
        let version = if self.random.random_bool(0.1) { version + 1 } else { version };
        let to = StoredState::ALL[self.random.random_range(0..6)].0;
        let reset = self.random.random_bool(0.3);
        let accepted = (to == StoredState::InMeeting).then(|| accepted(self.token, 1, reset));
        if from.may_become(to) {
            self.guess.insert(leg, (version + 1, to));
        }
        let expect = Expect { version, state: from };
        Write::State(StateWrite { leg, expect, state: to, cause: EndCause::ByServer, accepted })
    }

    fn content(&mut self, leg: LegId) -> ContentWrite {
        let mut changes: Vec<Change> = Vec::new();
        for (at, record) in
            [info("x"), terminal("1", "a"), window("1", 1, 0), entry("1", "k", b"v"), terminal("2", "b")]
                .into_iter()
                .enumerate()
        {
            let revision = self.random.random_range(1..20);
            match self.random.random_range(0..3) {
                0 if at != 0 => changes.push(removed(revision, present(0, record).key())),
                1 => changes.push(present(revision, record)),
                _ => {}
            }
        }
        let full = self.random.random_bool(0.2);
        let revision = self.random.random_range(1..20);
        let count = self.random.random_range(0..3);
        let mark = self.random.random_bool(0.5).then(|| Mark { revision, count, ..Mark::default() });
        let Write::Content(write) = content(leg, changes, mark, full) else { panic!() };
        let base = if full || self.random.random_bool(0.5) { 0 } else { self.random.random_range(0..20) };
        ContentWrite { base, ..write }
    }
}

/// Everything that reads tell, in a form to compare.
async fn everything(f: &Fixture) -> String {
    let legs: Vec<LegId> = (0..LEGS).map(leg_id).collect();
    let mut look_up = f.store.look_up(ServerId(1), &legs).await.unwrap();
    look_up.found.sort_by_key(|found| found.row.leg);
    let mut contents = f.store.contents(&legs).await.unwrap();
    contents.sort_by_key(|content| content.leg);
    for content in &mut contents {
        content.changes.sort_by_key(Change::key);
    }
    let secrets: Vec<_> =
        look_up.found.iter().map(|found| found.key.as_ref().map(|key| *key.secret.expose())).collect();
    let instances = [f.store.instance(1).await.unwrap(), f.store.instance(2).await.unwrap()];
    let mut open = f.store.instance(3).await.unwrap().open;
    open.sort_unstable();
    format!("{look_up:#?}\n{secrets:?}\n{contents:#?}\n{instances:#?}\n{open:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_stores_give_the_same_outcomes_and_rows() {
    let Some(postgres) = Fixture::new(Kind::Postgres).await else { return };
    let sqlite = Fixture::new(Kind::Sqlite).await.unwrap();
    // One epoch, so that one list of units suits both; the holders differ.
    assert_eq!(sqlite.token.epoch, postgres.token.epoch);
    let mut maker = Maker { random: seeded(), token: sqlite.token, guess: HashMap::new() };
    for batch in 0..120 {
        let count = maker.random.random_range(1..15);
        let units: Vec<Unit> = (0..count).map(|_| maker.unit()).collect();
        let (one, other) = (sqlite.write(units.clone()).await, postgres.write(units.clone()).await);
        for (unit, (one, other)) in units.iter().zip(one.into_iter().zip(other)) {
            assert_eq!(one, other, "batch {batch}: SQLite on the left, {unit:#?}");
        }
        assert_eq!(everything(&sqlite).await, everything(&postgres).await, "batch {batch}: {units:#?}");
        if batch % 10 == 9 {
            let (one, other) = (
                sqlite.store.settle(sqlite.token, &units).await.unwrap(),
                postgres.store.settle(postgres.token, &units).await.unwrap(),
            );
            assert_eq!(one, other, "settling batch {batch}");
        }
        // Look again at what stands, so that half of the units fit.
        for found in sqlite.store.legs(&(0..LEGS).map(leg_id).collect::<Vec<_>>()).await.unwrap().found {
            maker.guess.insert(found.row.leg, (found.row.version, found.row.state));
        }
        if batch % 20 == 19 {
            for f in [&sqlite, &postgres] {
                for table in ["recovery_keys", "meetings", "intents", "legs"] {
                    f.sql(&format!("DELETE FROM {table} WHERE meeting IN (SELECT meeting FROM legs WHERE ended)"))
                        .await;
                }
            }
            maker.guess.clear();
        }
    }
    sqlite.end().await;
    postgres.end().await;
}
