//! What stores promise after an unknown commit, and the store that fails when told to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{
    Fixture, Kind, accepted, begin, content, entry, info, leg_id, mark_of, new_leg, present, state, takeover, terminal,
};
use crate::store_intents::{answer, done, intent};
use remeet::model::RecoveryKey;
use remeet::model::StoredState::{Created, Ended, Ending, InMeeting};
use remeet::store::{Call, FailingStore, Failure, Outcome, RAISE, Store, StoreError, Unit, Write};
use remeet_protocol::Secret;
use std::sync::Arc;

/// A unit of every kind, for legs 1 and 2 (which exist) and 3 (which does not).
fn one_of_each(f: &Fixture) -> Vec<Unit> {
    let (leg, other) = (leg_id(1), leg_id(2));
    let key = RecoveryKey { generation: 2, secret: Secret::new([200; 16]), ..new_leg(1, Created).key };
    let changes = vec![present(1, info("x")), present(2, terminal("1", "a")), present(3, entry("1", "k", b"v"))];
    vec![
        Unit::one(takeover(leg, 1, accepted(f.token, 4, false))),
        Unit::one(content(leg, changes.clone(), Some(mark_of(3, &changes)), false)),
        Unit::one(Write::Key(Box::new(key))),
        Unit { writes: vec![state(other, 1, InMeeting, Ending), Write::Intent(Box::new(intent(other, 1, None)))] },
        Unit { writes: vec![Write::IntentDone(done(other, 1)), Write::Answer(answer(9, 1, 0))] },
        Unit::one(Write::Quarantine(leg, Some("why".to_owned()))),
        Unit::one(Write::First(other, true)),
        Unit::one(Write::NewLeg(Box::new(new_leg(3, Created)))),
        Unit::one(Write::Answer(answer(9, 2, 0))),
    ]
}

pub(crate) async fn rule_12_what_was_committed_stands_and_the_version_is_raised(f: &Fixture) {
    f.leg(1).await;
    f.leg(2).await;
    let units = one_of_each(f);
    f.write(units.clone()).await;
    let outcomes = f.store.settle(f.token, &units).await.unwrap();
    let version = |unit: &Unit| match unit.leg() {
        // Raised by more than the units' two changes of state could.
        Some(leg) if leg == leg_id(3) => 1 + RAISE + 2,
        Some(_) => 2 + RAISE + 2,
        None => 0,
    };
    for (unit, outcome) in units.iter().zip(outcomes) {
        assert_eq!(outcome, Outcome::Applied { version: version(unit) }, "{unit:?}");
    }
    assert_eq!(f.row(leg_id(1)).await.version, 2 + RAISE + 2);
}

pub(crate) async fn rule_12_what_was_not_committed_never_will(f: &Fixture) {
    f.leg(1).await;
    f.leg(2).await;
    let units = one_of_each(f);
    let outcomes = f.store.settle(f.token, &units).await.unwrap();
    for (unit, outcome) in units.iter().zip(outcomes) {
        let version = match unit.leg() {
            Some(leg) if leg != leg_id(3) => 1 + RAISE + 2,
            _ => 0,
        };
        assert_eq!(outcome, Outcome::Lost { version }, "{unit:?}");
    }
    // The late commit: its states lose now.
    let late = f.write(units).await;
    let version = 1 + RAISE + 2;
    assert_eq!((late[0], late[3]), (Outcome::Lost { version }, Outcome::Lost { version }));
    // Planned again with the version that settling told.
    let again = f.one(state(leg_id(2), version, InMeeting, Ending)).await;
    assert_eq!(again, Outcome::Applied { version: version + 1 });
}

pub(crate) async fn rule_12_settling_again_says_the_same(f: &Fixture) {
    f.leg(1).await;
    let stands = [Unit::one(takeover(leg_id(1), 1, accepted(f.token, 4, false)))];
    f.write(stands.to_vec()).await;
    f.leg(2).await;
    let never = [Unit::one(takeover(leg_id(2), 1, accepted(f.token, 4, false)))];
    for round in 1..4 {
        let outcomes = f.store.settle(f.token, &stands).await.unwrap();
        assert_eq!(outcomes, [Outcome::Applied { version: 2 + (RAISE + 1) * round }]);
        let outcomes = f.store.settle(f.token, &never).await.unwrap();
        assert_eq!(outcomes, [Outcome::Lost { version: 1 + (RAISE + 1) * round }]);
    }
}

pub(crate) async fn rule_12_a_chain_of_states_is_settled_from_its_end(f: &Fixture) {
    f.leg(1).await;
    let chain = [
        Unit::one(takeover(leg_id(1), 1, accepted(f.token, 4, false))),
        Unit::one(state(leg_id(1), 2, InMeeting, Ending)),
        Unit::one(state(leg_id(1), 3, Ending, Ended)),
    ];
    f.write(chain[..2].to_vec()).await;
    let outcomes = f.store.settle(f.token, &chain).await.unwrap();
    let version = 3 + RAISE + 3;
    assert_eq!(outcomes, [Outcome::Applied { version }, Outcome::Applied { version }, Outcome::Lost { version }]);
}

/// Simulation, seed 9585: the version was raised by one, to what the second of the late chain expects.
pub(crate) async fn rule_12_a_late_chain_of_states_loses_from_its_first_to_its_last(f: &Fixture) {
    f.leg(1).await;
    let chain = [
        Unit::one(takeover(leg_id(1), 1, accepted(f.token, 4, false))),
        Unit::one(state(leg_id(1), 2, InMeeting, Ending)),
        Unit::one(state(leg_id(1), 3, Ending, Ended)),
    ];
    let version = 1 + RAISE + 3;
    assert_eq!(f.store.settle(f.token, &chain).await.unwrap(), [Outcome::Lost { version }; 3]);
    assert_eq!(f.write(chain.to_vec()).await, [Outcome::Lost { version }; 3]);
    assert_eq!(f.row(leg_id(1)).await.state, InMeeting);
}

pub(crate) async fn rule_12_settling_is_fenced(f: &Fixture) {
    let leg = f.leg(1).await;
    begin(&*f.store, "node").await;
    let unit = Unit::one(state(leg, 1, InMeeting, Ending));
    assert!(matches!(f.store.settle(f.token, &[unit]).await, Err(StoreError::Fenced { .. })));
    assert_eq!(f.row(leg).await.version, 1);
}

#[tokio::test]
async fn a_failing_store_fails_as_told_before_or_after_doing_it() {
    let f = Fixture::new(Kind::Sqlite).await.unwrap();
    let leg = f.leg(1).await;
    let failing = FailingStore::new(Arc::clone(&f.store));
    let units = [Unit::one(state(leg, 1, InMeeting, Ending))];
    failing.fail_next(Call::Write, Failure::Unavailable);
    failing.fail_next(Call::Write, Failure::UnknownNotDone);
    assert!(matches!(failing.write(f.token, &units).await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(failing.write(f.token, &units).await, Err(StoreError::Unknown { .. })));
    assert_eq!(f.row(leg).await.version, 1, "neither was done");
    failing.fail_next(Call::Write, Failure::UnknownDone);
    assert!(matches!(failing.write(f.token, &units).await, Err(StoreError::Unknown { .. })));
    assert_eq!(f.row(leg).await.version, 2, "this one was");
    assert_eq!(failing.settle(f.token, &units).await.unwrap(), [Outcome::Applied { version: 2 + RAISE + 1 }]);
    failing.fail_always(Call::Legs, Some(Failure::Unavailable));
    for _ in 0..3 {
        assert!(failing.legs(&[leg]).await.is_err());
    }
    failing.fail_always(Call::Legs, None);
    assert!(failing.legs(&[leg]).await.is_ok());
    assert_eq!((failing.calls(Call::Write), failing.calls(Call::Legs)), (3, 4));
    f.end().await;
}
