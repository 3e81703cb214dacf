//! What every durable store promises, run against SQLite and Postgres alike. Cases about look-ups, content,
//! intents and unknown commits stand in files of their own; the list of all is here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{
    Fixture, accepted, begin, boot, candidate, content, entry, granted, info, leg_id, mark_of, new_leg, present, state,
    takeover, terminal, window,
};
use remeet::model::StoredState::{Adopting, Created, Ended, Ending, InMeeting, Starting};
use remeet::model::{RecoveryKey, StoredState};
use remeet::store::{Candidate, Expect, Outcome, StateWrite, StoreError, Unit, Write, open};
use remeet_protocol::message::EndCause;
use remeet_protocol::record::Mark;
use remeet_protocol::wire::Text;
use remeet_protocol::{Epoch, Handle, Holder, LegId, Secret, Token};
use std::collections::BTreeSet;
use std::time::Duration;

macro_rules! contract {
    ($($module:ident { $($name:ident,)* })*) => {
        mod sqlite {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::run(crate::store_fixture::Kind::Sqlite, async |f| super::super::$module::$name(f).await).await;
            })*)*
        }
        mod postgres {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::run(crate::store_fixture::Kind::Postgres, async |f| super::super::$module::$name(f).await).await;
            })*)*
        }
    };
}

async fn run(kind: crate::store_fixture::Kind, case: impl AsyncFnOnce(&Fixture)) {
    if let Some(fixture) = Fixture::new(kind).await {
        case(&fixture).await;
        fixture.end().await;
    }
}

contract! {
    store_contract {
        a_new_leg_is_found_with_its_key,
        a_leg_that_exists_is_not_made_again,
        rule_1_epochs_only_grow_and_no_token_is_given_twice,
        rule_4_every_write_of_an_older_term_is_fenced_and_changes_nothing,
        rule_4_a_state_write_loses_unless_version_and_state_are_the_expected_ones,
        rule_4_illegal_changes_of_state_lose,
        rule_7_an_acceptance_of_another_term_loses,
        rule_9_ended_is_absorbing,
        an_acceptance_is_stored_with_boot_handle_and_table_revision,
        a_unit_stands_or_falls_as_a_whole,
        a_unit_of_several_legs_stands_or_falls_as_a_whole,
        one_loser_in_a_big_batch_harms_nobody_else,
        a_roster_names_the_legs_that_have_the_terminal,
        units_of_one_leg_are_written_in_order,
        a_key_of_a_higher_generation_replaces_and_a_lower_one_loses,
        quarantine_and_mark_first_leave_the_version,
        writes_to_an_unknown_leg_lose,
        content_is_reset_only_of_the_legs_whose_acceptance_says_so,
        absurd_numbers_harm_only_their_own_unit,
        an_empty_store_has_no_term_and_migrating_again_changes_nothing,
        a_store_opened_again_has_everything,
    }
    store_lease {
        a_lease_that_stands_keeps_other_nodes_out_and_its_own_node_is_granted_at_once,
        a_lease_that_has_run_out_keeps_nobody_out,
        a_lease_of_a_clock_that_was_set_back_keeps_nobody_out,
        a_released_lease_is_told_and_granted_at_once,
        a_released_lease_is_not_renewed_and_its_term_still_writes,
        a_wait_for_a_release_ends_in_time_and_when_the_lease_runs_out,
        a_renewal_makes_the_lease_last_also_when_it_had_run_out,
        rule_5_a_renewal_or_release_of_an_older_term_is_fenced_and_leaves_the_newer_lease,
        of_many_nodes_at_once_exactly_one_begins,
        a_first_term_is_begun_by_exactly_one_of_many_nodes,
        a_term_without_a_lease_of_its_own_keeps_nobody_out,
        what_the_node_is_called_comes_back,
    }
    store_look_up {
        look_up_finds_the_servers_live_legs_and_the_named_ones,
        live_legs_come_in_pages_that_cut_no_meeting,
        unreadable_rows_are_named_and_harm_no_others,
    }
    store_content {
        records_of_every_kind_come_back_as_they_were,
        every_record_has_its_own_legs_domain,
        a_mark_moves_only_from_the_mark_that_its_changes_follow_on,
        rule_13_a_record_is_written_over_a_lower_revision_only,
        rule_13_over_an_equal_revision_only_in_a_full_pull,
        removals_remove_lower_revisions_only,
        a_full_pull_removes_what_it_lacks_up_to_its_mark,
        a_mark_never_falls_and_sets_all_four_groups,
        a_content_reset_lets_everything_be_replaced,
        rows_that_agree_are_not_written,
        unknown_states_are_explicit,
        texts_with_nul_and_markers_come_back_exactly,
        several_content_writes_of_one_leg_in_one_batch_end_as_one_after_the_other,
        content_of_an_unknown_leg_is_absent,
        mark_and_records_are_of_one_snapshot_while_writes_go_on,
        an_unreadable_record_makes_the_mark_zero,
    }
    store_intents {
        intents_are_open_until_done_and_raise_the_legs_number,
        an_intent_number_is_taken_once,
        a_new_leg_may_come_with_its_intents,
        rule_11_the_first_answer_to_a_command_stands,
        an_instance_keeps_256_answers_and_says_what_is_too_old,
        an_instance_shows_its_open_intents,
        answers_are_pruned_by_age_but_stay_too_old,
        the_least_recent_instances_are_pruned,
        done_intents_are_pruned_by_age_and_open_ones_never,
        a_pruned_intents_number_stays_taken,
        rule_12_a_result_whose_intent_was_pruned_stands,
        many_done_intents_are_pruned_in_bounded_batches,
        rule_4_pruning_of_done_intents_is_fenced,
    }
    store_settle {
        rule_12_what_was_committed_stands_and_the_version_is_raised,
        rule_12_what_was_not_committed_never_will,
        rule_12_settling_again_says_the_same,
        rule_12_a_chain_of_states_is_settled_from_its_end,
        rule_12_a_late_chain_of_states_loses_from_its_first_to_its_last,
        rule_12_settling_is_fenced,
    }
}

pub(crate) async fn a_new_leg_is_found_with_its_key(f: &Fixture) {
    let mut new = new_leg(1, Created);
    new.row.quarantine = Some("why\0not".to_owned());
    new.row.boot = Some(boot(9));
    new.row.handle = Some(Handle(u64::MAX));
    new.row.first = true;
    let unit = Unit::one(Write::NewLeg(Box::new(new.clone())));
    assert_eq!(f.write(vec![unit]).await, [Outcome::Applied { version: 1 }]);
    let look_up = f.store.legs(&[new.row.leg, leg_id(2)]).await.unwrap();
    assert!(look_up.bad.is_empty());
    assert_eq!(look_up.found.len(), 1, "an unknown leg is absent");
    assert_eq!(look_up.found[0].row, new.row);
    assert_eq!(look_up.found[0].key.as_ref(), Some(&new.key));
    assert!(look_up.found[0].open.is_empty());
    assert_eq!(f.store.meeting(new.row.leg.meeting).await.unwrap(), [new.row]);
}

pub(crate) async fn a_leg_that_exists_is_not_made_again(f: &Fixture) {
    let leg = f.leg(1).await;
    f.one(state(leg, 1, InMeeting, Ending)).await;
    let mut again = new_leg(1, Created);
    again.key.secret = Secret::new([99; 16]);
    let outcomes = f.write(vec![Unit::one(Write::NewLeg(Box::new(again)))]).await;
    assert_eq!(outcomes, [Outcome::Lost { version: 2 }]);
    let found = f.store.legs(&[leg]).await.unwrap().found.remove(0);
    assert_eq!(found.row.state, Ending);
    assert_eq!(found.key.unwrap().secret, Secret::new([1; 16]));
}

pub(crate) async fn rule_1_epochs_only_grow_and_no_token_is_given_twice(f: &Fixture) {
    let holder = Holder(uuid::Uuid::now_v7());
    let mut last = f.token;
    assert_eq!(last.epoch, Epoch(1));
    let above = |epoch| Candidate { holder, epoch_above: Epoch(epoch), ..candidate("node") };
    for _ in 0..3 {
        let next = granted(f.store.begin_term(above(0)).await.unwrap());
        assert_eq!(next.epoch.0, last.epoch.0 + 1);
        last = next;
    }
    let above = granted(f.store.begin_term(above(1000)).await.unwrap());
    assert_eq!(above, Token { epoch: Epoch(1001), holder });
    assert_eq!(f.store.standing().await.unwrap().unwrap().token, above);
    // Side by side: every one gets its own.
    let ends = [f.store.begin_term(candidate("node")), f.store.begin_term(candidate("node"))];
    let mut epochs: Vec<u64> =
        futures_util::future::join_all(ends).await.into_iter().map(|begun| granted(begun.unwrap()).epoch.0).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, [1002, 1003]);
}

pub(crate) async fn rule_4_every_write_of_an_older_term_is_fenced_and_changes_nothing(f: &Fixture) {
    let leg = f.leg(1).await;
    let before = f.row(leg).await;
    let old = f.token;
    begin(&*f.store, "node").await;
    let writes = [
        Write::NewLeg(Box::new(new_leg(2, Created))),
        state(leg, 1, InMeeting, Ending),
        // Also one that would lose: the term comes first.
        state(leg, 9, InMeeting, Ending),
        content(leg, vec![present(1, info("x"))], None, false),
        Write::Key(Box::new(RecoveryKey { generation: 2, ..new_leg(1, Created).key })),
        Write::Quarantine(leg, Some("late".to_owned())),
        Write::First(leg, true),
        Write::IntentDone(crate::store_intents::done(leg, 1)),
        Write::Intent(Box::new(crate::store_intents::intent(leg, 1, None))),
        Write::Answer(crate::store_intents::answer(1, 1, 0)),
    ];
    for write in writes {
        let answer = f.store.write(old, &[Unit::one(write.clone())]).await;
        assert!(matches!(answer, Err(StoreError::Fenced { token }) if token == old), "{write:?}: {answer:?}");
        assert!(matches!(f.store.settle(old, &[Unit::one(write)]).await, Err(StoreError::Fenced { .. })));
    }
    let forged = Token { epoch: Epoch(old.epoch.0 + 1), holder: old.holder };
    let unit = Unit::one(state(leg, 1, InMeeting, Ending));
    assert!(matches!(f.store.write(forged, &[unit]).await, Err(StoreError::Fenced { .. })));
    assert!(matches!(f.store.prune_answers(old, Duration::ZERO, 0).await, Err(StoreError::Fenced { .. })));
    assert_eq!(f.row(leg).await, before);
    assert!(f.store.legs(&[leg_id(2)]).await.unwrap().found.is_empty());
    assert!(f.content(leg).await.1.is_empty());
    assert!(f.store.instance(1).await.unwrap().answers.is_empty());
}

pub(crate) async fn rule_4_a_state_write_loses_unless_version_and_state_are_the_expected_ones(f: &Fixture) {
    let leg = f.leg(1).await;
    assert_eq!(f.one(state(leg, 2, InMeeting, Ending)).await, Outcome::Lost { version: 1 });
    assert_eq!(f.one(state(leg, 1, Starting, Ending)).await, Outcome::Lost { version: 1 });
    assert_eq!(f.row(leg).await.version, 1);
    assert_eq!(f.one(state(leg, 1, InMeeting, Ending)).await, Outcome::Applied { version: 2 });
    assert_eq!(f.one(state(leg, 1, InMeeting, Ending)).await, Outcome::Lost { version: 2 });
    assert_eq!(f.row(leg).await.state, Ending);
}

pub(crate) async fn rule_4_illegal_changes_of_state_lose(f: &Fixture) {
    let mut n = 0;
    for (from, _) in StoredState::ALL {
        for (to, _) in StoredState::ALL {
            n += 1;
            let new = new_leg(n, from);
            let leg = new.row.leg;
            f.one(Write::NewLeg(Box::new(new))).await;
            let outcome = f.one(state(leg, 1, from, to)).await;
            assert_eq!(matches!(outcome, Outcome::Applied { .. }), from.may_become(to), "{from:?} to {to:?}");
            assert_eq!(f.row(leg).await.state, if from.may_become(to) { to } else { from });
        }
    }
}

pub(crate) async fn rule_7_an_acceptance_of_another_term_loses(f: &Fixture) {
    let leg = f.leg(1).await;
    let mut foreign = accepted(f.token, 1, false);
    foreign.epoch = Epoch(f.token.epoch.0 + 1);
    assert!(matches!(f.one(takeover(leg, 1, foreign)).await, Outcome::Lost { .. }));
    assert_eq!(f.row(leg).await.epoch, Epoch(0));
}

pub(crate) async fn rule_9_ended_is_absorbing(f: &Fixture) {
    let leg = f.leg(1).await;
    let end = Write::State(StateWrite {
        leg,
        expect: Expect { version: 1, state: InMeeting },
        state: Ended,
        cause: EndCause::ByServer,
        accepted: None,
    });
    assert_eq!(f.one(end).await, Outcome::Applied { version: 2 });
    for to in [Created, Starting, Adopting, InMeeting, Ending, Ended] {
        for from in [InMeeting, Ended] {
            assert!(matches!(f.one(state(leg, 2, from, to)).await, Outcome::Lost { .. }));
        }
    }
    let row = f.row(leg).await;
    assert_eq!((row.state, row.cause, row.version), (Ended, EndCause::ByServer, 2));
}

pub(crate) async fn an_acceptance_is_stored_with_boot_handle_and_table_revision(f: &Fixture) {
    let leg = f.leg(1).await;
    let accepted = accepted(f.token, 3, false);
    assert_eq!(f.one(takeover(leg, 1, accepted)).await, Outcome::Applied { version: 2 });
    let row = f.row(leg).await;
    assert_eq!(row.epoch, f.token.epoch);
    assert_eq!((row.boot, row.handle, row.table_revision), (Some(boot(3)), Some(Handle(3)), 40));
    // A change without an acceptance leaves them.
    f.one(state(leg, 2, InMeeting, Ending)).await;
    let row = f.row(leg).await;
    assert_eq!((row.boot, row.handle, row.epoch), (Some(boot(3)), Some(Handle(3)), f.token.epoch));
}

pub(crate) async fn a_unit_stands_or_falls_as_a_whole(f: &Fixture) {
    let leg = f.leg(1).await;
    let loses = Unit {
        writes: vec![
            Write::Answer(crate::store_intents::answer(5, 1, 0)),
            content(leg, vec![present(1, info("never"))], None, false),
            Write::First(leg, true),
            state(leg, 4, InMeeting, Ending),
        ],
    };
    let new = Unit {
        writes: vec![
            Write::Intent(Box::new(crate::store_intents::intent(leg_id(2), 1, None))),
            Write::NewLeg(Box::new(new_leg(2, Created))),
        ],
    };
    let outcomes = f.write(vec![loses, new]).await;
    assert_eq!(outcomes, [Outcome::Lost { version: 1 }, Outcome::Applied { version: 1 }]);
    assert!(!f.row(leg).await.first);
    assert!(f.content(leg).await.1.is_empty());
    assert!(f.store.instance(5).await.unwrap().answers.is_empty());
    assert_eq!(f.row(leg_id(2)).await.intent, 1);
}

/// A start or an end of all legs of a meeting is one unit (SPEC K-15).
pub(crate) async fn a_unit_of_several_legs_stands_or_falls_as_a_whole(f: &Fixture) {
    let first = leg_id(1);
    let second = LegId { leg: 1, ..first };
    let further = |leg: LegId| {
        let mut new = new_leg(1, InMeeting);
        (new.row.leg, new.key.leg) = (leg, leg);
        Unit::one(Write::NewLeg(Box::new(new)))
    };
    assert_eq!(f.write(vec![further(first), further(second)]).await, [Outcome::Applied { version: 1 }; 2]);
    let ends = |version: u64| Unit {
        writes: vec![
            state(first, 1, InMeeting, Ending),
            Write::Intent(Box::new(crate::store_intents::intent(first, 1, Some((5, 1))))),
            state(second, version, InMeeting, Ending),
            Write::Intent(Box::new(crate::store_intents::intent(second, 1, Some((5, 1))))),
        ],
    };
    assert!(matches!(f.write(vec![ends(7)]).await[0], Outcome::Lost { .. }));
    assert_eq!((f.row(first).await.state, f.row(second).await.state), (InMeeting, InMeeting));
    assert_eq!((f.row(first).await.intent, f.store.instance(5).await.unwrap().open.len()), (0, 0));
    assert!(matches!(f.write(vec![ends(1)]).await[0], Outcome::Applied { .. }));
    assert_eq!((f.row(first).await.state, f.row(second).await.state), (Ending, Ending));
    let open = f.store.instance(5).await.unwrap().open;
    assert_eq!(
        open.iter().map(|(number, leg, intent)| (*number, *leg, *intent)).collect::<BTreeSet<_>>(),
        [(1, first, 1), (1, second, 1)].into()
    );
    // Rule 12: what stands of such a unit is found again, all of it or nothing.
    let settled = f.store.settle(f.token, &[ends(1)]).await.unwrap();
    assert!(matches!(settled[0], Outcome::Applied { .. }));
    let settled = f.store.settle(f.token, &[ends(7)]).await.unwrap();
    assert!(matches!(settled[0], Outcome::Lost { .. }));
}

/// Which leg of a meeting has a terminal (SPEC K-16).
pub(crate) async fn a_roster_names_the_legs_that_have_the_terminal(f: &Fixture) {
    let first = leg_id(1);
    let legs: Vec<LegId> = (0..3).map(|leg| LegId { leg, ..first }).collect();
    for leg in &legs {
        let mut new = new_leg(1, InMeeting);
        (new.row.leg, new.key.leg) = (*leg, *leg);
        f.one(Write::NewLeg(Box::new(new))).await;
    }
    f.leg(2).await;
    let odd = "6\u{E000}1";
    for (leg, number) in [(legs[1], "601"), (legs[2], "601"), (legs[2], odd), (leg_id(2), "602")] {
        f.one(content(leg, vec![present(1, terminal(number, "room"))], None, false)).await;
    }
    let roster = async |number: &str| f.store.roster(first.meeting, &Text::cut(number)).await.unwrap();
    assert_eq!(roster("601").await, [legs[1], legs[2]]);
    assert_eq!(roster(odd).await, [legs[2]]);
    assert_eq!(roster("602").await, [], "another meeting's");
}

pub(crate) async fn one_loser_in_a_big_batch_harms_nobody_else(f: &Fixture) {
    let units = |from: u32| (from..from + 500).map(|n| Unit::one(Write::NewLeg(Box::new(new_leg(n, InMeeting)))));
    let outcomes = f.write(units(0).collect()).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied { version: 1 }));
    let mut batch: Vec<Unit> = (0..500).map(|n| Unit::one(state(leg_id(n), 1, InMeeting, Ending))).collect();
    batch[123] = Unit::one(state(leg_id(123), 7, InMeeting, Ending));
    batch[400] = Unit::one(state(leg_id(4000), 1, InMeeting, Ending));
    let outcomes = f.write(batch).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let expected = match n {
            123 => Outcome::Lost { version: 1 },
            400 => Outcome::Lost { version: 0 },
            _ => Outcome::Applied { version: 2 },
        };
        assert_eq!(outcome, expected, "unit {n}");
    }
    let ending = "SELECT count(*) FROM legs WHERE state = 'ending'";
    assert_eq!(f.number(ending).await, 498);
}

pub(crate) async fn units_of_one_leg_are_written_in_order(f: &Fixture) {
    let leg = leg_id(1);
    let outcomes = f
        .write(vec![
            Unit::one(Write::NewLeg(Box::new(new_leg(1, Created)))),
            Unit::one(state(leg, 1, Created, Starting)),
            Unit::one(state(leg, 1, Created, Ended)),
            Unit::one(Write::Quarantine(leg, Some("a".to_owned()))),
            Unit::one(state(leg, 2, Starting, Ending)),
            Unit::one(Write::Quarantine(leg, Some("b".to_owned()))),
            Unit::one(state(leg, 3, Ending, Ended)),
        ])
        .await;
    let versions: Vec<Outcome> = outcomes;
    assert_eq!(
        versions,
        [
            Outcome::Applied { version: 1 },
            Outcome::Applied { version: 2 },
            Outcome::Lost { version: 2 },
            Outcome::Applied { version: 0 },
            Outcome::Applied { version: 3 },
            Outcome::Applied { version: 0 },
            Outcome::Applied { version: 4 },
        ]
    );
    let row = f.row(leg).await;
    assert_eq!((row.state, row.version, row.quarantine.as_deref()), (Ended, 4, Some("b")));
}

pub(crate) async fn a_key_of_a_higher_generation_replaces_and_a_lower_one_loses(f: &Fixture) {
    let leg = f.leg(1).await;
    let key = |generation: u64, secret: u8| RecoveryKey {
        generation,
        secret: Secret::new([secret; 16]),
        title: Text::cut("Adopted"),
        ..new_leg(1, Created).key
    };
    assert_eq!(f.one(Write::Key(Box::new(key(3, 33)))).await, Outcome::Applied { version: 0 });
    assert_eq!(f.one(Write::Key(Box::new(key(3, 33)))).await, Outcome::Applied { version: 0 }, "the same again");
    assert_eq!(
        f.one(Write::Key(Box::new(key(3, 34)))).await,
        Outcome::Lost { version: 1 },
        "another of the same generation"
    );
    assert_eq!(f.one(Write::Key(Box::new(key(2, 22)))).await, Outcome::Lost { version: 1 });
    let found = f.store.legs(&[leg]).await.unwrap().found.remove(0);
    assert_eq!(found.row.generation, 3);
    assert_eq!(found.row.title.as_str(), "Adopted");
    assert_eq!(found.key.unwrap(), key(3, 33));
}

pub(crate) async fn quarantine_and_mark_first_leave_the_version(f: &Fixture) {
    let leg = f.leg(1).await;
    let unit = Unit { writes: vec![Write::Quarantine(leg, Some("digest".to_owned())), Write::First(leg, true)] };
    assert_eq!(f.write(vec![unit]).await, [Outcome::Applied { version: 0 }]);
    let row = f.row(leg).await;
    assert_eq!((row.quarantine.as_deref(), row.first, row.version), (Some("digest"), true, 1));
    f.write(vec![Unit::one(Write::Quarantine(leg, None)), Unit::one(Write::First(leg, false))]).await;
    let row = f.row(leg).await;
    assert_eq!((row.quarantine, row.first, row.version), (None, false, 1));
}

pub(crate) async fn writes_to_an_unknown_leg_lose(f: &Fixture) {
    let leg = leg_id(77);
    let writes = [
        content(leg, vec![present(1, info("x"))], None, false),
        Write::Key(Box::new(new_leg(77, Created).key)),
        Write::Quarantine(leg, None),
        Write::First(leg, true),
        Write::Intent(Box::new(crate::store_intents::intent(leg, 1, None))),
        Write::IntentDone(crate::store_intents::done(leg, 1)),
        state(leg, 1, InMeeting, Ending),
    ];
    let count = writes.len();
    let outcomes = f.write(writes.map(Unit::one).to_vec()).await;
    assert_eq!(outcomes, vec![Outcome::Lost { version: 0 }; count]);
    assert_eq!(f.number("SELECT (SELECT count(*) FROM recovery_keys) + (SELECT count(*) FROM intents)").await, 0);
    // Beside what stands, and with what proves a leg by itself: no record is left without a leg.
    let known = f.leg(1).await;
    let records = || {
        let records = [info("x"), terminal("1", "a"), window("1", 1, 0), entry("1", "k", b"v")];
        records.into_iter().map(|record| present(1, record)).collect::<Vec<_>>()
    };
    let intent = |leg| Write::Intent(Box::new(crate::store_intents::intent(leg, 1, None)));
    let unit = |leg| Unit { writes: vec![intent(leg), content(leg, records(), None, false)] };
    let outcomes = f.write(vec![unit(known), unit(leg), Unit::one(content(leg, records(), None, true))]).await;
    assert_eq!(outcomes, [Outcome::Applied { version: 0 }, Outcome::Lost { version: 0 }, Outcome::Lost { version: 0 }]);
    for table in ["meeting_info", "terminals", "windows", "entries", "intents"] {
        assert_eq!(f.number(&format!("SELECT count(*) FROM {table}")).await, 1, "{table}");
    }
}

/// Acceptances that keep the content and such that do not are different statements of one batch.
pub(crate) async fn content_is_reset_only_of_the_legs_whose_acceptance_says_so(f: &Fixture) {
    let legs = [f.leg(1).await, f.leg(2).await, f.leg(3).await];
    let changes = vec![present(5, info("x")), present(6, terminal("1", "a"))];
    let mark = mark_of(6, &changes);
    f.write(legs.map(|leg| Unit::one(content(leg, changes.clone(), Some(mark), false))).to_vec()).await;
    let units = [
        Unit::one(takeover(legs[0], 1, accepted(f.token, 1, false))),
        Unit::one(takeover(legs[1], 1, accepted(f.token, 2, true))),
        // Loses: nothing of its content is touched, and nothing of the others' is lost.
        Unit::one(takeover(legs[2], 9, accepted(f.token, 3, true))),
    ];
    let outcomes = f.write(units.to_vec()).await;
    assert_eq!(
        outcomes,
        [Outcome::Applied { version: 2 }, Outcome::Applied { version: 2 }, Outcome::Lost { version: 1 }]
    );
    for (leg, reset) in legs.into_iter().zip([false, true, false]) {
        let (stored, records) = f.content(leg).await;
        assert_eq!(stored, if reset { Mark::default() } else { mark }, "{leg}");
        assert_eq!(records.iter().all(|change| change.revision == 0), reset, "{leg}");
        let meeting = leg.meeting;
        for group in ["info", "business", "decode", "extra"] {
            let group = format!("SELECT {group}_mark FROM legs WHERE meeting = '{meeting}'");
            assert_eq!(f.number(&group).await, if reset { 0 } else { 6 }, "{group}");
        }
    }
}

pub(crate) async fn absurd_numbers_harm_only_their_own_unit(f: &Fixture) {
    let (leg, other) = (f.leg(1).await, f.leg(2).await);
    let outcomes = f
        .write(vec![
            Unit::one(content(leg, vec![present(u64::MAX, info("x"))], None, false)),
            Unit::one(content(other, vec![present(3, info("y"))], None, false)),
            Unit::one(Write::Intent(Box::new(crate::store_intents::intent(leg, u64::MAX, None)))),
        ])
        .await;
    assert!(matches!(outcomes[..], [Outcome::Lost { .. }, Outcome::Applied { .. }, Outcome::Lost { .. }]));
    assert_eq!(f.content(other).await.1.len(), 1);
}

pub(crate) async fn an_empty_store_has_no_term_and_migrating_again_changes_nothing(f: &Fixture) {
    f.sql("DELETE FROM term").await;
    assert_eq!(f.store.standing().await.unwrap(), None);
    assert!(matches!(
        f.store.write(f.token, &[Unit::one(Write::First(leg_id(1), true))]).await,
        Err(StoreError::Fenced { .. })
    ));
    f.store.migrate().await.unwrap();
    // A migration of a later release does not stop this one.
    f.sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         SELECT version + 1000000, 'later', true, checksum, 0 FROM _sqlx_migrations",
    )
    .await;
    f.store.migrate().await.unwrap();
}

pub(crate) async fn a_store_opened_again_has_everything(f: &Fixture) {
    let leg = f.leg(1).await;
    f.one(content(leg, vec![present(1, info("x"))], None, false)).await;
    let row = f.row(leg).await;
    let again = open(&f.url, &remeet::store::StoreOptions::default()).unwrap();
    again.migrate().await.unwrap();
    assert_eq!(again.standing().await.unwrap().unwrap().token, f.token);
    assert_eq!(again.legs(&[leg]).await.unwrap().found[0].row, row);
    assert_eq!(again.contents(&[leg]).await.unwrap()[0].changes.len(), 1);
    again.close().await;
}

#[tokio::test]
async fn a_malformed_url_is_refused_and_its_text_is_not_repeated() {
    let options = remeet::store::StoreOptions::default();
    for url in ["", "store.db", "sqlite:", "sqlite::memory:", "mysql://me:hush@host/db", "postgres://me:hush@ho st:x"] {
        let Err(StoreError::Broken { reason, .. }) = open(url, &options) else { panic!("{url} was taken") };
        assert!(reason.contains("malformed URL"), "{reason}");
        assert!(!reason.contains("hush"), "{reason}");
    }
}
