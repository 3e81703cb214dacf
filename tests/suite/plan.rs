//! Goal: every bucket of the plan and every clause of rule 8 by name. Method: tables of (what is stored, what
//! the inventory says, what the plan makes of it), one test a line; then a property: whatever a store and a
//! server say, every leg has exactly one bucket. What the round must know before it may plan (a complete
//! inventory, cut at or after the attach) stands in `plan_round`.

use proptest::prelude::*;
use remeet::model::{StoredLeg, StoredState};
use remeet::recovery::plan::{Bucket, Planned, Seen, TWO_HANDLES, plan, takeover_order};
use remeet_protocol::message::{EndCause, InventoryEntry, LegState};
use remeet_protocol::record::{Mark, Number};
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, DomainId, Epoch, Handle, LegId, MeetingId, ServerId, Token};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const HERE: ServerId = ServerId(1);
const ELSEWHERE: ServerId = ServerId(2);
pub(crate) const BOOT: BootId = BootId(uuid::Uuid::from_bytes([1; 16]));
pub(crate) const OLD_BOOT: BootId = BootId(uuid::Uuid::from_bytes([2; 16]));
/// Table revision of the inventory's cut; rows were accepted at 5.
const CUT: u64 = 10;

pub(crate) fn leg(number: u8) -> LegId {
    LegId { meeting: MeetingId(uuid::Uuid::from_u128(u128::from(number))), leg: 0 }
}

/// Leg `number` as stored: here, in this life of the table, with handle 100 + `number`.
pub(crate) fn row(number: u8, state: StoredState) -> StoredLeg {
    let placed = !matches!(state, StoredState::Created | StoredState::Starting);
    StoredLeg {
        leg: leg(number),
        domain: DomainId(1),
        server: HERE,
        state,
        cause: if state == StoredState::Ended { EndCause::Commanded } else { EndCause::None },
        epoch: Epoch(1),
        boot: placed.then_some(BOOT),
        handle: placed.then_some(Handle(100 + u64::from(number))),
        table_revision: 5,
        mark: Mark::default(),
        generation: 1,
        intent: 1,
        first: false,
        quarantine: None,
        version: 3,
        number: Number::default(),
        title: Text::default(),
    }
}

fn in_meeting(number: u8) -> StoredLeg {
    row(number, StoredState::InMeeting)
}

fn starting(number: u8) -> StoredLeg {
    row(number, StoredState::Starting)
}

fn ending(number: u8) -> StoredLeg {
    row(number, StoredState::Ending)
}

/// An adopting leg: stored under its new name, at the handle of the orphan.
fn adopting(number: u8, orphan: u8) -> StoredLeg {
    StoredLeg { table_revision: 0, ..row(number, StoredState::Adopting).handle(100 + u64::from(orphan)) }
}

fn ended(number: u8, cause: EndCause) -> StoredLeg {
    StoredLeg { cause, ..row(number, StoredState::Ended) }
}

/// Readable departures from [`row`].
trait Departs {
    fn handle(self, handle: u64) -> Self;
    fn under(self, boot: BootId) -> Self;
    fn nowhere(self) -> Self;
    fn on(self, server: ServerId) -> Self;
    fn accepted_at(self, table_revision: u64) -> Self;
    fn was(self, orphan: u8) -> Self;
}

impl Departs for StoredLeg {
    fn handle(self, handle: u64) -> Self {
        Self { handle: Some(Handle(handle)), ..self }
    }
    fn under(self, boot: BootId) -> Self {
        Self { boot: Some(boot), ..self }
    }
    fn nowhere(self) -> Self {
        Self { boot: None, handle: None, ..self }
    }
    fn on(self, server: ServerId) -> Self {
        Self { server, ..self }
    }
    fn accepted_at(self, table_revision: u64) -> Self {
        Self { table_revision, ..self }
    }
    /// Adopted, at the orphan's handle.
    fn was(self, orphan: u8) -> Self {
        let title = Text::cut(&format!("adopted from {}", leg(orphan)));
        Self { title, ..self }.handle(100 + u64::from(orphan))
    }
}

pub(crate) fn entry(number: u8, handle: u64, state: LegState, cause: EndCause) -> InventoryEntry {
    let (mark, token) = (Mark::default(), Token::default());
    InventoryEntry { handle: Handle(handle), leg: leg(number), state, cause, mark, terminals: 2, token }
}

fn live(number: u8) -> InventoryEntry {
    live_at(number, 100 + u64::from(number))
}

fn live_at(number: u8, handle: u64) -> InventoryEntry {
    entry(number, handle, LegState::Live, EndCause::None)
}

fn tombstone(number: u8) -> InventoryEntry {
    tombstone_at(number, 100 + u64::from(number))
}

fn tombstone_at(number: u8, handle: u64) -> InventoryEntry {
    entry(number, handle, LegState::Ended, EndCause::ByServer)
}

fn planned(stored: &[StoredLeg], inventory: &[InventoryEntry]) -> Vec<Planned> {
    let stored: BTreeMap<LegId, &StoredLeg> = stored.iter().map(|row| (row.leg, row)).collect();
    plan(&Seen { server: HERE, boot: BOOT, table_revision: CUT, inventory, stored: &stored })
}

/// A conflict or an unclear leg, whatever the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Just(&'static Bucket),
    Adoption(u8),
    Ended(EndCause),
    Vanished(EndCause),
    Conflict,
    SecondHandle,
    Unclear,
}

const TAKE_OVER: Is = Is::Just(&Bucket::TakeOver);
const FINISH_END: Is = Is::Just(&Bucket::FinishEnd);
const FINISH_START: Is = Is::Just(&Bucket::FinishStart);
const ORPHAN: Is = Is::Just(&Bucket::Orphan);

fn is(bucket: &Bucket, expected: Is) -> bool {
    match expected {
        Is::Just(same) => bucket == same,
        Is::Adoption(old) => *bucket == Bucket::FinishAdoption { old: leg(old) },
        Is::Ended(cause) => *bucket == Bucket::Ended(cause),
        Is::Vanished(cause) => *bucket == Bucket::Vanished(cause),
        Is::Conflict => matches!(bucket, Bucket::Conflict(reason) if *reason != TWO_HANDLES),
        Is::SecondHandle => *bucket == Bucket::Conflict(TWO_HANDLES),
        Is::Unclear => matches!(bucket, Bucket::Unclear(_)),
    }
}

fn check(stored: &[StoredLeg], inventory: &[InventoryEntry], expected: &[(u8, Is)]) {
    let planned = planned(stored, inventory);
    let found: Vec<_> = planned.iter().map(|place| (place.leg, &place.bucket)).collect();
    let fits = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|((found, bucket), (number, what))| *found == leg(*number) && is(bucket, *what));
    assert!(fits, "planned {found:?}, expected {expected:?}");
}

/// One named test a line: `name: [stored], [inventory] => [(leg, bucket)];`
macro_rules! plans {
    ($($name:ident: [$($row:expr),*], [$($entry:expr),*] => [$($expected:expr),*];)*) => {
        $(#[test]
        fn $name() {
            check(&[$($row),*], &[$($entry),*], &[$($expected),*]);
        })*
    };
}

// Live in the inventory.
plans! {
    bucket_take_over_live_and_stored_in_meeting: [in_meeting(1)], [live(1)] => [(1, TAKE_OVER)];
    bucket_take_over_live_under_another_handle: [in_meeting(1)], [live_at(1, 7)] => [(1, TAKE_OVER)];
    bucket_take_over_live_under_a_new_boot_id: [in_meeting(1).under(OLD_BOOT)], [live(1)] => [(1, TAKE_OVER)];
    bucket_take_over_starting_and_live_the_answer_was_lost: [starting(1)], [live(1)] => [(1, TAKE_OVER)];
    bucket_take_over_adopting_and_live_under_the_new_name: [adopting(1, 9)], [live_at(1, 109)] => [(1, TAKE_OVER)];
    bucket_finish_adoption_live_under_the_old_name: [adopting(1, 9)], [live(9)] => [(1, Is::Adoption(9))];
    bucket_finish_end_ending_and_still_live: [ending(1)], [live(1)] => [(1, FINISH_END)];
    bucket_finish_end_commanded_and_still_live: [ended(1, EndCause::Commanded)], [live(1)] => [(1, FINISH_END)];
    bucket_finish_end_by_the_server_and_still_live: [ended(1, EndCause::ByServer)], [live(1)] => [(1, FINISH_END)];
    bucket_finish_end_by_an_operator_and_still_live: [ended(1, EndCause::Operator)], [live(1)] => [(1, FINISH_END)];
    bucket_orphan_live_without_a_stored_leg: [], [live(1)] => [(1, ORPHAN)];
    bucket_orphan_a_foreign_leg_beside_ours: [in_meeting(1)], [live(1), live(9)] => [(1, TAKE_OVER), (9, ORPHAN)];
    bucket_conflict_another_server_is_stored_as_the_legs: [in_meeting(1).on(ELSEWHERE)], [live(1)] => [(1, Is::Conflict)];
    bucket_conflict_ended_there_yet_live_here: [ended(1, EndCause::Commanded).on(ELSEWHERE)], [live(1)] => [(1, Is::Conflict)];
    bucket_conflict_closed_as_vanished_yet_live: [ended(1, EndCause::Vanished)], [live(1)] => [(1, Is::Conflict)];
    bucket_conflict_closed_as_lost_yet_live: [ended(1, EndCause::Lost)], [live(1)] => [(1, Is::Conflict)];
    bucket_conflict_live_but_never_started: [row(1, StoredState::Created)], [live(1)] => [(1, Is::Conflict)];
    bucket_conflict_adopting_but_live_under_another_handle: [adopting(1, 9)], [live_at(1, 7)] => [(1, Is::Conflict)];
    two_handles_of_one_leg_the_stored_one_is_the_legs: [in_meeting(1)], [live_at(1, 7), live(1)]
        => [(1, Is::SecondHandle), (1, TAKE_OVER)];
    two_handles_of_one_leg_else_the_first_is_the_legs: [in_meeting(1).handle(99)], [live_at(1, 7), live_at(1, 8)]
        => [(1, TAKE_OVER), (1, Is::SecondHandle)];
    two_handles_of_an_orphan_one_is_shown: [], [live_at(9, 7), live_at(9, 8)] => [(9, ORPHAN), (9, Is::SecondHandle)];
    two_handles_of_an_adopted_name_nothing_is_adopted: [adopting(1, 9)], [live_at(1, 7), live(9)]
        => [(1, Is::Conflict), (1, Is::SecondHandle)];
}

// Tombstones: the explicit end of rule 8 that an inventory reports.
plans! {
    rule_8_a_tombstone_ends_a_leg_in_meeting: [in_meeting(1)], [tombstone(1)] => [(1, Is::Ended(EndCause::ByServer))];
    rule_8_a_tombstone_ends_a_starting_leg: [starting(1)], [tombstone(1)] => [(1, Is::Ended(EndCause::ByServer))];
    rule_8_a_tombstone_ends_an_ending_leg: [ending(1)], [tombstone(1)] => [(1, Is::Ended(EndCause::ByServer))];
    rule_8_a_tombstone_under_the_new_name_ends_an_adopting_leg: [adopting(1, 9)], [tombstone_at(1, 109)]
        => [(1, Is::Ended(EndCause::ByServer))];
    rule_8_a_tombstone_under_the_old_name_ends_an_adopting_leg: [adopting(1, 9)], [tombstone(9)]
        => [(1, Is::Ended(EndCause::ByServer))];
    rule_8_a_tombstone_ends_a_leg_of_an_older_boot_id: [in_meeting(1).under(OLD_BOOT)], [tombstone_at(1, 7)]
        => [(1, Is::Ended(EndCause::ByServer))];
    a_tombstone_counts_at_any_table_revision: [in_meeting(1).accepted_at(CUT)], [tombstone(1)]
        => [(1, Is::Ended(EndCause::ByServer))];
    a_tombstone_of_an_ended_leg_needs_nothing: [ended(1, EndCause::Commanded)], [tombstone(1)] => [];
    a_tombstone_of_a_leg_that_was_never_started_needs_nothing: [row(1, StoredState::Created)], [tombstone(1)] => [];
    a_tombstone_of_an_unknown_leg_needs_nothing: [], [tombstone(9)] => [];
    a_tombstone_at_another_server_ends_nothing: [in_meeting(1).on(ELSEWHERE)], [tombstone(1)] => [];
    a_tombstone_of_another_handle_ends_nothing: [in_meeting(1)], [tombstone_at(1, 7)] => [(1, Is::Unclear)];
    a_tombstone_beside_the_live_leg_ends_nothing: [in_meeting(1)], [live_at(1, 7), tombstone(1)] => [(1, TAKE_OVER)];
    a_second_tombstone_of_a_leg_is_the_same_end: [starting(1)], [tombstone_at(1, 7), tombstone_at(1, 8)]
        => [(1, Is::Ended(EndCause::ByServer))];
    an_orphans_tombstone_beside_the_live_new_name_ends_nothing: [adopting(1, 9)], [live_at(1, 7), tombstone(9)]
        => [(1, Is::Conflict)];
}

// Absent from the complete inventory.
plans! {
    rule_8_absent_in_the_same_life_at_a_higher_table_revision_is_vanished: [in_meeting(1)], []
        => [(1, Is::Vanished(EndCause::Vanished))];
    rule_8_absent_under_a_new_boot_id_is_lost: [in_meeting(1).under(OLD_BOOT)], []
        => [(1, Is::Vanished(EndCause::Lost))];
    rule_8_a_new_boot_id_needs_no_higher_table_revision: [in_meeting(1).under(OLD_BOOT).accepted_at(CUT + 5)], []
        => [(1, Is::Vanished(EndCause::Lost))];
    rule_8_an_absent_adoption_is_vanished: [adopting(1, 9)], [] => [(1, Is::Vanished(EndCause::Vanished))];
    rule_8_an_absent_adoption_of_an_older_boot_id_is_lost: [adopting(1, 9).under(OLD_BOOT)], []
        => [(1, Is::Vanished(EndCause::Lost))];
    rule_8_an_absent_ending_leg_has_ended_as_commanded: [ending(1)], [] => [(1, Is::Vanished(EndCause::Commanded))];
    rule_8_an_ending_leg_lost_with_its_table_has_ended_as_commanded: [ending(1).under(OLD_BOOT)], []
        => [(1, Is::Vanished(EndCause::Commanded))];
    rule_8_no_end_at_the_table_revision_that_accepted_the_leg: [in_meeting(1).accepted_at(CUT)], [] => [(1, Is::Unclear)];
    rule_8_no_end_below_the_table_revision_that_accepted_the_leg: [in_meeting(1).accepted_at(CUT + 1)], []
        => [(1, Is::Unclear)];
    rule_8_no_end_of_an_ending_leg_at_that_table_revision: [ending(1).accepted_at(CUT)], [] => [(1, Is::Unclear)];
    rule_8_no_end_while_the_start_is_unanswered_bucket_finish_start: [starting(1)], [] => [(1, FINISH_START)];
    rule_8_no_end_of_a_start_with_an_old_boot_id: [starting(1).under(OLD_BOOT)], [] => [(1, FINISH_START)];
    rule_8_no_end_while_the_start_before_the_end_is_unanswered: [ending(1).nowhere()], [] => [(1, FINISH_START)];
    rule_8_no_end_without_a_stored_boot_id_bucket_unclear: [in_meeting(1).nowhere()], [] => [(1, Is::Unclear)];
    rule_8_no_end_of_a_leg_stored_under_another_server: [in_meeting(1).on(ELSEWHERE)], [] => [];
    absent_and_never_started_needs_nothing: [row(1, StoredState::Created)], [] => [];
    rule_9_absent_and_ended_stays_ended: [ended(1, EndCause::Commanded)], [] => [];
    rule_9_a_reused_handle_is_a_new_meeting: [in_meeting(1)], [live_at(9, 101)]
        => [(9, ORPHAN), (1, Is::Vanished(EndCause::Vanished))];
    rule_9_a_handle_reused_by_a_leg_of_ours: [in_meeting(1), in_meeting(2).handle(7)], [live_at(2, 101)]
        => [(2, TAKE_OVER), (1, Is::Vanished(EndCause::Vanished))];
    a_handle_of_our_own_leg_is_nobodys_to_adopt: [in_meeting(2), adopting(1, 2)], [live(2)]
        => [(2, TAKE_OVER), (1, Is::Vanished(EndCause::Vanished))];
    adopted_after_the_inventory_was_made_is_no_orphan: [in_meeting(1).was(9).accepted_at(CUT + 1)], [live(9)]
        => [(1, Is::Unclear)];
    adopted_and_ended_again_after_the_inventory_was_made_is_no_orphan: [ending(1).was(9).accepted_at(CUT + 1)], [live(9)]
        => [(1, Is::Unclear)];
    adopted_and_ended_after_the_inventory_was_made_is_no_orphan: [ended(1, EndCause::Operator).was(9).accepted_at(CUT + 1)],
        [live(9)] => [(1, Is::Unclear)];
    a_leg_that_was_no_orphan_is_not_taken_for_one_by_its_handle: [in_meeting(1).handle(109).accepted_at(CUT + 1)], [live(9)]
        => [(9, ORPHAN), (1, Is::Unclear)];
    a_leg_whose_name_stands_at_an_orphans_handle_is_not_absent: [in_meeting(2).handle(7), adopting(1, 9)], [live_at(2, 109)]
        => [(1, Is::Adoption(2)), (2, Is::Unclear)];
}

#[test]
fn takeovers_go_marked_first_then_larger_then_by_handle() {
    let mut order = vec![
        (takeover_order(false, 2, Handle(1)), "small"),
        (takeover_order(false, 9, Handle(3)), "large, later handle"),
        (takeover_order(true, 1, Handle(9)), "marked"),
        (takeover_order(false, 9, Handle(2)), "large"),
    ];
    order.sort_by_key(|(order, _)| *order);
    let names: Vec<_> = order.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["marked", "large", "large, later handle", "small"]);
}

#[test]
fn a_plan_can_be_printed_without_acting() {
    let planned = planned(&[in_meeting(1), in_meeting(2)], &[live(1), live(9)]);
    let printed = serde_json::to_value(&planned).unwrap();
    let buckets: Vec<_> = printed.as_array().unwrap().iter().map(|place| place["bucket"].to_string()).collect();
    assert_eq!(buckets, ["\"take-over\"", "\"orphan\"", "{\"vanished\":4}"]);
}

fn any_row(number: u8) -> impl Strategy<Value = Option<StoredLeg>> {
    let state = prop::sample::select(StoredState::ALL.map(|(state, _)| state).to_vec());
    let place = prop_oneof![Just(None), (any::<bool>(), 1..7_u64).prop_map(Some)];
    let causes = [EndCause::Commanded, EndCause::ByServer, EndCause::Lost, EndCause::Vanished, EndCause::Operator];
    let rest = (prop::sample::select(causes.to_vec()), prop::bool::weighted(0.2), CUT - 1..CUT + 2);
    prop::option::weighted(
        0.8,
        (state, place, rest).prop_map(move |(state, place, (cause, elsewhere, table_revision))| StoredLeg {
            server: if elsewhere { ELSEWHERE } else { HERE },
            cause: if state == StoredState::Ended { cause } else { EndCause::None },
            boot: place.map(|(same, _)| if same { BOOT } else { OLD_BOOT }),
            handle: place.map(|(_, handle)| Handle(handle)),
            table_revision,
            ..row(number, state)
        }),
    )
}

fn any_world() -> impl Strategy<Value = (Vec<StoredLeg>, Vec<InventoryEntry>)> {
    let rows = (any_row(1), any_row(2), any_row(3), any_row(4));
    let rows = rows.prop_map(|(one, two, three, four)| [one, two, three, four].into_iter().flatten().collect());
    // Handles ascend and are told once in an inventory (the session checks that); names may be told twice.
    let entries = prop::collection::btree_map(1..7_u64, (1..7_u8, any::<bool>()), 0..7).prop_map(|entries| {
        let said = |(handle, (number, lives)): (u64, (u8, bool))| {
            if lives { live_at(number, handle) } else { tombstone_at(number, handle) }
        };
        entries.into_iter().map(said).collect()
    });
    (rows, entries)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_leg_has_exactly_one_bucket((stored, inventory) in any_world()) {
        let planned = planned(&stored, &inventory);
        let mut buckets: BTreeMap<LegId, usize> = BTreeMap::new();
        for place in planned.iter().filter(|place| place.bucket != Bucket::Conflict(TWO_HANDLES)) {
            *buckets.entry(place.leg).or_default() += 1;
        }
        for (leg, count) in &buckets {
            prop_assert_eq!(*count, 1, "{} in {:?}", leg, &planned);
        }
        let needs = |row: &&StoredLeg| {
            row.server == HERE && !matches!(row.state, StoredState::Created | StoredState::Ended)
        };
        for row in stored.iter().filter(needs) {
            prop_assert!(buckets.contains_key(&row.leg), "{} is in no bucket: {:?}", row.leg, &planned);
        }
        // Every live entry is told of once, and no other is said to be live.
        let live: Vec<Handle> =
            inventory.iter().filter(|entry| entry.state == LegState::Live).map(|entry| entry.handle).collect();
        let told: Vec<Handle> = planned.iter().filter(|place| place.live).filter_map(|place| place.handle).collect();
        prop_assert_eq!(live, told);
    }

    #[test]
    fn rule_8_no_leg_that_is_reported_live_is_closed((stored, inventory) in any_world()) {
        let live: BTreeSet<LegId> =
            inventory.iter().filter(|entry| entry.state == LegState::Live).map(|entry| entry.leg).collect();
        for place in planned(&stored, &inventory) {
            let closes = matches!(place.bucket, Bucket::Ended(_) | Bucket::Vanished(_));
            prop_assert!(!closes || !live.contains(&place.leg), "{:?}", place);
        }
    }
}
