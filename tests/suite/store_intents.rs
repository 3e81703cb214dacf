//! What stores promise about intents and clients' answers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{Fixture, Kind, begin, leg_id, new_leg};
use remeet::model::{ClientAnswerRow, CommandId, Intent, IntentResult, StoredState};
use remeet::store::{Outcome, RAISE, StoreError, Unit, Write};
use remeet_protocol::message::{End, EndCause, Op, SetExtra};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{ErrorCode, LegId};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const APPLIED: Outcome = Outcome::Applied { version: 0 };

pub(crate) fn intent(leg: LegId, number: u64, command: Option<(u64, u64)>) -> Intent {
    let op = if number.is_multiple_of(2) {
        Op::End(End { cause: EndCause::Commanded })
    } else {
        let value = Some(Blob::new(vec![0, 1, 2]).unwrap());
        Op::SetExtra(SetExtra { number: Text::cut("1"), key: Text::cut("k"), value })
    };
    Intent { leg, number, op, command: command.map(|(instance, number)| CommandId { instance, number }) }
}

pub(crate) fn done(leg: LegId, number: u64) -> IntentResult {
    IntentResult { leg, number, code: ErrorCode::OK }
}

pub(crate) fn answer(instance: u64, number: u64, at_ms: u64) -> ClientAnswerRow {
    ClientAnswerRow {
        command: CommandId { instance, number },
        meeting: leg_id(1).meeting,
        code: ErrorCode::OK,
        detail: format!("answer {number}\0"),
        at_ms,
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

async fn open(f: &Fixture, leg: LegId) -> Vec<Intent> {
    f.store.legs(&[leg]).await.unwrap().found.remove(0).open
}

pub(crate) async fn intents_are_open_until_done_and_raise_the_legs_number(f: &Fixture) {
    let leg = f.leg(1).await;
    let intents: Vec<Intent> = [1, 2, 3].map(|number| intent(leg, number, None)).to_vec();
    let units = intents.iter().rev().cloned().map(Box::new).map(Write::Intent).map(Unit::one).collect();
    assert_eq!(f.write(units).await, [APPLIED; 3]);
    assert_eq!(open(f, leg).await, intents);
    assert_eq!(f.row(leg).await.intent, 3);
    assert_eq!(f.row(leg).await.version, 1);
    assert_eq!(f.one(Write::IntentDone(done(leg, 2))).await, APPLIED);
    assert_eq!(f.one(Write::IntentDone(done(leg, 2))).await, APPLIED, "again changes nothing");
    assert_eq!(f.one(Write::IntentDone(done(leg, 9))).await, APPLIED, "there is no such intent: it is not open");
    assert_eq!(open(f, leg).await, [intents[0].clone(), intents[2].clone()]);
    // Committed and done in one batch.
    let units =
        vec![Unit::one(Write::Intent(Box::new(intent(leg, 4, None)))), Unit::one(Write::IntentDone(done(leg, 4)))];
    assert_eq!(f.write(units).await, [APPLIED; 2]);
    assert_eq!(open(f, leg).await.len(), 2);
    assert_eq!(f.row(leg).await.intent, 4);
}

pub(crate) async fn a_new_leg_may_come_with_its_intents(f: &Fixture) {
    let leg = leg_id(1);
    let intents = [intent(leg, 1, None), intent(leg, 2, Some((7, 3)))];
    let new = new_leg(1, StoredState::Adopting);
    let mut writes = vec![Write::NewLeg(Box::new(new))];
    writes.extend(intents.iter().cloned().map(Box::new).map(Write::Intent));
    let unit = Unit { writes };
    assert_eq!(f.write(vec![unit.clone()]).await, [Outcome::Applied { version: 1 }]);
    assert_eq!(open(f, leg).await, intents);
    assert_eq!((f.row(leg).await.intent, f.row(leg).await.state), (2, StoredState::Adopting));
    assert_eq!(f.store.instance(7).await.unwrap().open, [(3, leg, 2)]);
    // The same unit again is lost as a whole; settled, it stands.
    assert_eq!(f.write(vec![unit.clone()]).await, [Outcome::Lost { version: 1 }]);
    assert_eq!(f.store.settle(f.token, &[unit]).await.unwrap(), [Outcome::Applied { version: 1 + RAISE }]);
}

pub(crate) async fn an_intent_number_is_taken_once(f: &Fixture) {
    let leg = f.leg(1).await;
    f.one(Write::Intent(Box::new(intent(leg, 1, None)))).await;
    assert_eq!(f.one(Write::Intent(Box::new(intent(leg, 1, Some((1, 1)))))).await, Outcome::Lost { version: 1 });
    f.one(Write::IntentDone(done(leg, 1))).await;
    assert_eq!(
        f.one(Write::Intent(Box::new(intent(leg, 1, None)))).await,
        Outcome::Lost { version: 1 },
        "done is taken, too"
    );
    let twice = vec![
        Unit::one(Write::Intent(Box::new(intent(leg, 2, None)))),
        Unit::one(Write::Intent(Box::new(intent(leg, 2, None)))),
    ];
    assert_eq!(f.write(twice).await, [APPLIED, Outcome::Lost { version: 1 }]);
}

pub(crate) async fn rule_11_the_first_answer_to_a_command_stands(f: &Fixture) {
    let first = answer(u64::MAX, 5, 1000);
    let second = ClientAnswerRow { code: ErrorCode::BUSY, ..answer(u64::MAX, 5, 2000) };
    assert_eq!(f.one(Write::Answer(first.clone())).await, APPLIED);
    assert_eq!(f.one(Write::Answer(second.clone())).await, APPLIED);
    let units = vec![Unit::one(Write::Answer(second)), Unit::one(Write::Answer(answer(u64::MAX, 3, 900)))];
    assert_eq!(f.write(units).await, [APPLIED; 2]);
    let instance = f.store.instance(u64::MAX).await.unwrap();
    assert_eq!(instance.answers, [answer(u64::MAX, 3, 900), first]);
    assert_eq!(instance.pruned, 0);
    assert!(f.store.instance(7).await.unwrap().answers.is_empty());
}

pub(crate) async fn an_instance_keeps_256_answers_and_says_what_is_too_old(f: &Fixture) {
    let units = (1..=255).chain(1000..=1001).map(|number| Unit::one(Write::Answer(answer(1, number, 1)))).collect();
    f.write(units).await;
    f.one(Write::Answer(answer(2, 1, 1))).await;
    let instance = f.store.instance(1).await.unwrap();
    assert_eq!((instance.answers.len(), instance.pruned), (256, 1));
    assert_eq!(instance.answers[0].command.number, 2);
    f.write((2000..2010).map(|number| Unit::one(Write::Answer(answer(1, number, 1)))).collect()).await;
    let instance = f.store.instance(1).await.unwrap();
    assert_eq!((instance.answers.len(), instance.pruned), (256, 11));
    // One that is too old is not kept again.
    assert_eq!(f.one(Write::Answer(answer(1, 11, 1))).await, APPLIED);
    assert_eq!(f.store.instance(1).await.unwrap().answers[0].command.number, 12);
    assert_eq!(f.store.instance(2).await.unwrap().answers.len(), 1, "another instance is not touched");
}

pub(crate) async fn an_instance_shows_its_open_intents(f: &Fixture) {
    let (leg, other) = (f.leg(1).await, f.leg(2).await);
    let units = vec![
        Unit::one(Write::Intent(Box::new(intent(leg, 1, Some((7, 70)))))),
        Unit::one(Write::Intent(Box::new(intent(leg, 2, Some((8, 80)))))),
        Unit::one(Write::Intent(Box::new(intent(other, 1, Some((7, 71)))))),
        Unit::one(Write::Intent(Box::new(intent(other, 2, None)))),
    ];
    f.write(units).await;
    assert_eq!(f.store.instance(7).await.unwrap().open, [(70, leg, 1), (71, other, 1)]);
    let unit = Unit { writes: vec![Write::IntentDone(done(leg, 1)), Write::Answer(answer(7, 70, 1))] };
    f.write(vec![unit]).await;
    let instance = f.store.instance(7).await.unwrap();
    assert_eq!(instance.open, [(71, other, 1)]);
    assert_eq!(instance.answers.len(), 1);
}

pub(crate) async fn answers_are_pruned_by_age_but_stay_too_old(f: &Fixture) {
    let hour = Duration::from_secs(3600);
    let now = now_ms();
    let old = now - 25 * 3_600_000;
    let units = [(1, old), (2, old), (3, now), (4, now)];
    f.write(units.map(|(number, at)| Unit::one(Write::Answer(answer(1, number, at)))).to_vec()).await;
    f.one(Write::Answer(answer(2, 9, old))).await;
    assert_eq!(f.store.prune_answers(f.token, 24 * hour, 10).await.unwrap(), 3);
    assert_eq!(f.store.prune_answers(f.token, 24 * hour, 10).await.unwrap(), 0);
    let kept = f.store.instance(1).await.unwrap();
    assert_eq!((kept.answers.len(), kept.pruned), (2, 2));
    let empty = f.store.instance(2).await.unwrap();
    assert_eq!((empty.answers.len(), empty.pruned), (0, 9), "its repeat is too old, it does not run again");
}

pub(crate) async fn the_least_recent_instances_are_pruned(f: &Fixture) {
    let now = now_ms();
    for instance in 1..=5 {
        f.one(Write::Answer(answer(instance, 1, now - 1000 * instance))).await;
        f.one(Write::Answer(answer(instance, 2, now - 1000 * instance))).await;
    }
    assert_eq!(f.store.prune_answers(f.token, Duration::from_secs(3600), 3).await.unwrap(), 4);
    for instance in 1..=5 {
        let kept = f.store.instance(instance).await.unwrap().answers.len();
        assert_eq!(kept, if instance <= 3 { 2 } else { 0 }, "instance {instance}");
    }
    assert_eq!(f.number("SELECT count(*) FROM client_instances").await, 3);
}

const HOUR: Duration = Duration::from_secs(3600);

/// Intents of a leg that are done, as if this long ago.
async fn done_for(f: &Fixture, leg: LegId, numbers: &[u64], hours: u64) {
    let unit = |number: &u64| Unit {
        writes: vec![Write::Intent(Box::new(intent(leg, *number, None))), Write::IntentDone(done(leg, *number))],
    };
    f.write(numbers.iter().map(unit).collect()).await;
    let done_at = now_ms() - hours * 3_600_000;
    for number in numbers {
        f.sql(&format!(
            "UPDATE intents SET done_at_ms = {done_at} WHERE meeting = '{}' AND number = {number}",
            leg.meeting
        ))
        .await;
    }
}

async fn intents_left(f: &Fixture) -> i64 {
    f.number("SELECT count(*) FROM intents").await
}

pub(crate) async fn done_intents_are_pruned_by_age_and_open_ones_never(f: &Fixture) {
    let (leg, other) = (f.leg(1).await, f.leg(2).await);
    done_for(f, leg, &[1, 2, 4], 25).await;
    done_for(f, leg, &[5], 23).await;
    f.one(Write::Intent(Box::new(intent(leg, 3, None)))).await;
    done_for(f, other, &[1], 25).await;
    // Done by the release before, which does not say when.
    f.sql(&format!("UPDATE intents SET done_at_ms = NULL WHERE meeting = '{}'", other.meeting)).await;
    let just_done =
        Unit { writes: vec![Write::Intent(Box::new(intent(other, 2, None))), Write::IntentDone(done(other, 2))] };
    f.write(vec![just_done]).await;
    assert_eq!(f.store.prune_answers(f.token, 24 * HOUR, 10).await.unwrap(), 4);
    assert_eq!(f.store.prune_answers(f.token, 24 * HOUR, 10).await.unwrap(), 0);
    assert_eq!(intents_left(f).await, 3);
    assert_eq!(open(f, leg).await, [intent(leg, 3, None)], "an open one is never pruned");
    assert_eq!((f.row(leg).await.intent, f.row(other).await.intent), (5, 2), "the highest numbers are remembered");
    assert_eq!(f.row(leg).await.version, 1);
    // What is left is done and pruned as ever.
    f.one(Write::IntentDone(done(leg, 3))).await;
    // By a clock of milliseconds, what was done within this one is not older than nothing.
    f.sql("UPDATE intents SET done_at_ms = done_at_ms - 1000").await;
    assert_eq!(f.store.prune_answers(f.token, Duration::ZERO, 10).await.unwrap(), 3);
    assert_eq!(intents_left(f).await, 0);
}

pub(crate) async fn a_pruned_intents_number_stays_taken(f: &Fixture) {
    let leg = f.leg(1).await;
    done_for(f, leg, &[1, 2], 25).await;
    assert_eq!(f.store.prune_answers(f.token, 24 * HOUR, 10).await.unwrap(), 2);
    let units = vec![
        Unit::one(Write::Intent(Box::new(intent(leg, 2, None)))),
        Unit::one(Write::Intent(Box::new(intent(leg, 3, None)))),
    ];
    assert_eq!(f.write(units).await, [Outcome::Lost { version: 1 }, APPLIED]);
    assert_eq!(f.one(Write::Intent(Box::new(intent(leg, 1, Some((1, 1)))))).await, Outcome::Lost { version: 1 });
    assert_eq!(open(f, leg).await, [intent(leg, 3, None)]);
}

pub(crate) async fn rule_12_a_result_whose_intent_was_pruned_stands(f: &Fixture) {
    let leg = f.leg(1).await;
    done_for(f, leg, &[1], 25).await;
    f.one(Write::Intent(Box::new(intent(leg, 2, None)))).await;
    f.store.prune_answers(f.token, 24 * HOUR, 10).await.unwrap();
    let asked = [1, 2, 3].map(|number| Unit::one(Write::IntentDone(done(leg, number))));
    let outcomes = f.store.settle(f.token, &asked).await.unwrap();
    // Done and pruned; open; never there.
    assert!(
        matches!(outcomes[..], [Outcome::Applied { .. }, Outcome::Lost { .. }, Outcome::Lost { .. }]),
        "{outcomes:?}"
    );
}

pub(crate) async fn many_done_intents_are_pruned_in_bounded_batches(f: &Fixture) {
    let leg = f.leg(1).await;
    // More than two batches.
    f.sql(&format!(
        "INSERT INTO intents (meeting, leg, number, domain, op_name, op, code) \
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 45000) \
         SELECT {}, 0, n, 7, 'end', {}, 0 FROM n",
        if f.kind == Kind::Postgres { format!("'{}'::uuid", leg.meeting) } else { format!("'{}'", leg.meeting) },
        if f.kind == Kind::Postgres { "'\\x00'::bytea" } else { "x'00'" },
    ))
    .await;
    assert_eq!(f.store.prune_answers(f.token, 24 * HOUR, 10).await.unwrap(), 45_000);
    assert_eq!(intents_left(f).await, 0);
    assert_eq!(f.one(Write::Intent(Box::new(intent(leg, 45_000, None)))).await, Outcome::Lost { version: 1 });
    assert_eq!(f.one(Write::Intent(Box::new(intent(leg, 45_001, None)))).await, APPLIED);
}

pub(crate) async fn rule_4_pruning_of_done_intents_is_fenced(f: &Fixture) {
    let leg = f.leg(1).await;
    done_for(f, leg, &[1], 25).await;
    let old = f.token;
    begin(&*f.store, "node").await;
    assert!(matches!(f.store.prune_answers(old, HOUR, 10).await, Err(StoreError::Fenced { .. })));
    assert_eq!(intents_left(f).await, 1);
}
