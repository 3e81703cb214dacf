//! Goal: rule 17 for claims: a server takes legs over faster than the store writes that it did, and what is under way has
//! a bound all the same, which a server that does not answer keeps from nobody. Method: the core driven by hand with
//! small bounds.

use crate::core_rig::{Rig, TOKEN};
use crate::plan::{BOOT, HERE, entry, leg, row};
use remeet::model::{StoredLeg, StoredState};
use remeet::recovery::{Core, Input, Settings, Trigger};
use remeet::session::{Heard, Inventory, Request, RequestError, Ticket};
use remeet::store::Outcome;
use remeet_protocol::message::{Attached, EndCause, Event, InventoryEntry, LegState};
use remeet_protocol::record::Mark;
use remeet_protocol::{Digest, DomainId, ErrorCode, Handle, LegId, ServerId};
use std::time::Duration;

const THERE: ServerId = ServerId(2);
const AT: Mark = Mark { revision: 5, count: 1, digest: Digest(5) };

fn live(number: u8) -> InventoryEntry {
    InventoryEntry { mark: AT, token: TOKEN, ..entry(number, 100 + u64::from(number), LegState::Live, EndCause::None) }
}

fn stored(number: u8) -> StoredLeg {
    StoredLeg { mark: AT, ..row(number, StoredState::InMeeting) }
}

/// Six legs are stored and live, their keys are known, and the server has admitted the term.
fn six(settings: Settings) -> Rig {
    let mut rig = Rig::new(settings, BOOT);
    rig.inventory(BOOT, 10, (1..=6).map(live).collect());
    rig.look_up(&(1..=6).map(stored).collect::<Vec<_>>(), &[]);
    rig.attach(BOOT, 10);
    rig
}

fn end(number: u8) -> Heard {
    Heard::Event(Event {
        number: 1,
        leg: leg(number),
        handle: Handle(100 + u64::from(number)),
        previous: 0,
        mark: Mark::default(),
        ended: EndCause::ByServer,
        changes: Vec::new(),
    })
}

fn legs(numbers: &[u8]) -> Vec<LegId> {
    numbers.iter().map(|number| leg(*number)).collect()
}

#[test]
fn rule_17_claims_wait_while_as_many_acceptances_are_not_stored_as_may_be() {
    let mut rig = six(Settings { acceptances_unstored: 4, claims_in_flight: 2, ..Settings::default() });
    assert_eq!(rig.claimed(), [legs(&[1, 2])], "two may be under way at a server");
    rig.grant(BOOT, AT);
    rig.grant(BOOT, AT);
    assert_eq!((rig.claimed().len(), rig.persists.len()), (2, 4), "four are not stored");
    assert_eq!(rig.core.server_views()[0].round, Some("waiting for the store"));
    // The store is down for longer than a round may take: begun anew the round would wait for the same.
    for _ in 0..200 {
        rig.after(Duration::from_secs(1));
    }
    assert_eq!((rig.claimed().len(), rig.core.server_views()[0].trouble.clone()), (2, None));
    let (id, _) = rig.persists.remove(0);
    rig.give(Input::Written(id, Outcome::Applied { version: 4 }));
    assert_eq!(rig.claimed()[2..], [legs(&[5, 6])], "one is stored, and a share is claimed");
    assert_eq!(rig.core.server_views()[0].round, Some("taking over"));
    rig.grant(BOOT, AT);
    rig.stored();
    assert_eq!(rig.core.server_views()[0].in_meeting, 6);
}

#[test]
fn rule_17_an_acceptance_that_is_lost_makes_room_as_one_that_is_stored() {
    let mut rig = six(Settings { acceptances_unstored: 2, claims_in_flight: 2, ..Settings::default() });
    rig.grant(BOOT, AT);
    assert_eq!(rig.claimed().len(), 1);
    let (id, _) = rig.persists.remove(0);
    rig.give(Input::Written(id, Outcome::Lost { version: 9 }));
    assert_eq!(rig.claimed()[1..], [legs(&[3, 4])]);
}

#[test]
fn a_round_is_late_once_no_claim_is_answered_for_long_also_if_others_wait_behind_them() {
    let mut rig = six(Settings { acceptances_unstored: 8, claims_in_flight: 2, ..Settings::default() });
    let trouble = |rig: &Rig| rig.core.server_views()[0].trouble.clone();
    for number in 1..=3 {
        rig.after(Duration::from_secs(50));
        rig.claim_answered(BOOT, &stored(number), ErrorCode::OK, 0);
    }
    assert_eq!((rig.claimed().len(), trouble(&rig)), (4, None), "it is slow");
    rig.after(Duration::from_secs(50));
    // What was asked by an earlier round says nothing of this one's.
    rig.hear(Heard::Takeover(Ticket(0), Err((legs(&[1]), RequestError::NoAnswer))));
    assert_eq!(trouble(&rig), None);
    rig.after(Duration::from_secs(11));
    assert_eq!(trouble(&rig).as_deref(), Some("the round did not end in time"));
}

#[test]
fn a_server_that_gives_no_answer_or_is_busy_is_asked_no_more_in_this_round() {
    let settings = || Settings { claims_in_flight: 2, ..Settings::default() };
    let pending = |rig: &Rig, leg| rig.core.pending().iter().filter(|(_, of, why)| (*of, why.as_str()) == leg).count();
    let mut rig = six(settings());
    let ticket = rig.asked(|request| matches!(request, Request::Takeover(_)));
    rig.hear(Heard::Takeover(ticket, Err((legs(&[1, 2]), RequestError::NoAnswer))));
    assert_eq!(rig.claimed().len(), 1);
    assert_eq!((1..=6).map(|number| pending(&rig, (leg(number), "unreachable"))).sum::<usize>(), 6);
    rig.after(Settings::default().round_retry);
    assert_eq!(rig.count(|request| *request == Request::Inventory), 2, "another round follows soon");

    let mut rig = six(settings());
    rig.claim_answered(BOOT, &stored(1), ErrorCode::BUSY, 30_000);
    assert_eq!(rig.claimed().len(), 1);
    assert_eq!((3..=6).map(|number| pending(&rig, (leg(number), "busy"))).sum::<usize>(), 4);
    rig.grant(BOOT, AT);
    rig.stored();
    rig.no_stamps();
    rig.after(Duration::from_secs(29));
    assert_eq!(rig.count(|request| *request == Request::Inventory), 1, "it said when to ask again");
    rig.after(Duration::from_secs(1));
    assert_eq!(rig.count(|request| *request == Request::Inventory), 2);
}

#[test]
fn what_ends_while_its_claim_waits_is_not_claimed() {
    let mut rig = six(Settings { acceptances_unstored: 1, claims_in_flight: 1, ..Settings::default() });
    assert_eq!(rig.claimed(), [legs(&[1])]);
    rig.hear(end(2));
    rig.grant(BOOT, AT);
    let (end, _) = rig.persists.remove(0);
    rig.stored();
    assert_eq!(rig.claimed()[1..], [legs(&[3])], "its end is on its way to the store");
    rig.give(Input::Written(end, Outcome::Applied { version: 4 }));
    for _ in 3..=6 {
        rig.grant(BOOT, AT);
        rig.stored();
    }
    rig.no_stamps();
    let report = rig.core.report(Trigger::Restart);
    assert_eq!((report.live, report.recovered, report.ended, report.vanished), (6, 5, 1, 0));
}

#[test]
fn what_has_left_the_round_while_its_claim_waits_is_not_claimed() {
    let mut rig = six(Settings { acceptances_unstored: 1, claims_in_flight: 1, ..Settings::default() });
    rig.hear(end(2));
    let (end, _) = rig.persists.remove(0);
    rig.give(Input::Written(end, Outcome::Lost { version: 9 }));
    // The row is another's by now: only the next round knows what to do with it.
    rig.look_up(&[StoredLeg { version: 9, ..stored(2) }], &[]);
    rig.grant(BOOT, AT);
    rig.stored();
    assert_eq!(rig.claimed()[1..], [legs(&[3])]);
}

#[test]
fn rule_17_servers_that_do_not_answer_keep_no_other_waiting() {
    let settings = Settings { acceptances_unstored: 4, claims_at_least: 1, ..Settings::default() };
    let mut rig = Rig::new(settings.clone(), BOOT);
    rig.core = Core::new(settings, &[(HERE, DomainId(1)), (THERE, DomainId(1))], [3; 32]);
    rig.give(Input::TermBegan(TOKEN));
    let up = |rig: &mut Rig, server: ServerId, numbers: std::ops::RangeInclusive<u8>| {
        let hear = |rig: &mut Rig, heard| rig.give(Input::Heard(server, heard));
        hear(rig, Heard::Up { boot: BOOT, table_revision: 1 });
        let ticket = rig.asked(|request| *request == Request::Inventory);
        let entries = numbers.clone().map(live).collect();
        hear(rig, Heard::Inventory(ticket, Ok(Inventory { boot: BOOT, table_revision: 10, entries })));
        let rows: Vec<_> = numbers.map(|number| StoredLeg { server, ..stored(number) }).collect();
        rig.look_up(&rows, &[]);
        let ticket = rig.asked(|request| matches!(request, Request::Attach(_)));
        let attached = Attached { session: 1, boot: BOOT, table_revision: 10 };
        hear(rig, Heard::Attached(ticket, Ok(attached)));
    };
    up(&mut rig, HERE, 1..=6);
    up(&mut rig, THERE, 7..=9);
    assert_eq!(
        rig.claimed(),
        [legs(&[1, 2, 3, 4, 5, 6]), legs(&[7])],
        "the first has not answered: it holds all the room"
    );
    // Its link is given up: what it held is free.
    let ticket = rig.asks.iter().find(|(_, request, _)| matches!(request, Request::Takeover(_))).expect("asked").0;
    let lost = (legs(&[1, 2, 3, 4, 5, 6]), RequestError::LinkLost);
    rig.give(Input::Heard(HERE, Heard::Takeover(ticket, Err(lost))));
    rig.give(Input::Heard(HERE, Heard::Down { reason: "cut".to_owned() }));
    up(&mut rig, HERE, 1..=6);
    assert_eq!(rig.claimed()[2..], [legs(&[1, 2, 3, 4, 5, 6])]);
}
