//! Goal: rule 17 for claims: a server takes legs over faster than the store writes that it did, and what is under way has
//! a bound all the same, which a server that does not answer keeps from nobody. Method: the core driven by hand with
//! small bounds.

use crate::core_rig::{Rig, TOKEN};
use crate::plan::{BOOT, HERE, entry, leg, row};
use remeet::model::{StoredLeg, StoredState};
use remeet::recovery::{Core, Input, Settings};
use remeet::session::{Heard, Inventory, Request, RequestError};
use remeet::store::Outcome;
use remeet_protocol::message::{Attached, EndCause, Event, InventoryEntry, LegState};
use remeet_protocol::record::Mark;
use remeet_protocol::{DomainId, Handle, LegId, ServerId};
use std::time::Duration;

const THERE: ServerId = ServerId(2);

fn live(number: u8) -> InventoryEntry {
    InventoryEntry { token: TOKEN, ..entry(number, 100 + u64::from(number), LegState::Live, EndCause::None) }
}

/// Six legs are stored and live, their keys are known, and the server has admitted the term.
fn six(settings: Settings) -> Rig {
    let mut rig = Rig::new(settings, BOOT);
    rig.inventory(BOOT, 10, (1..=6).map(live).collect());
    rig.look_up(&(1..=6).map(|number| row(number, StoredState::InMeeting)).collect::<Vec<_>>(), &[]);
    rig.attach(BOOT, 10);
    rig
}

fn legs(numbers: &[u8]) -> Vec<LegId> {
    numbers.iter().map(|number| leg(*number)).collect()
}

#[test]
fn rule_17_claims_wait_while_as_many_acceptances_are_not_stored_as_may_be() {
    let mut rig = six(Settings { acceptances_unstored: 4, claims_in_flight: 2, ..Settings::default() });
    assert_eq!(rig.claimed(), [legs(&[1, 2])], "two may be under way at a server");
    rig.grant(BOOT, Mark::default());
    rig.grant(BOOT, Mark::default());
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
    rig.grant(BOOT, Mark::default());
    rig.stored();
    assert_eq!(rig.core.server_views()[0].in_meeting, 6);
}

#[test]
fn rule_17_an_acceptance_that_is_lost_makes_room_as_one_that_is_stored() {
    let mut rig = six(Settings { acceptances_unstored: 2, claims_in_flight: 2, ..Settings::default() });
    rig.grant(BOOT, Mark::default());
    assert_eq!(rig.claimed().len(), 1);
    let (id, _) = rig.persists.remove(0);
    rig.give(Input::Written(id, Outcome::Lost { version: 9 }));
    assert_eq!(rig.claimed()[1..], [legs(&[3, 4])]);
}

#[test]
fn a_round_whose_claims_are_not_answered_is_late_also_if_others_wait_behind_them() {
    let mut rig = six(Settings { acceptances_unstored: 4, claims_in_flight: 2, ..Settings::default() });
    rig.after(Duration::from_secs(61));
    let trouble = rig.core.server_views()[0].trouble.clone();
    assert_eq!(trouble.as_deref(), Some("the round did not end in time"));
}

#[test]
fn what_ends_while_its_claim_waits_is_not_claimed() {
    let mut rig = six(Settings { acceptances_unstored: 1, claims_in_flight: 1, ..Settings::default() });
    assert_eq!(rig.claimed(), [legs(&[1])]);
    rig.hear(Heard::Event(Event {
        number: 1,
        leg: leg(2),
        handle: Handle(102),
        previous: 0,
        mark: Mark::default(),
        ended: EndCause::ByServer,
        changes: Vec::new(),
    }));
    rig.stored();
    rig.grant(BOOT, Mark::default());
    rig.stored();
    assert_eq!(rig.claimed()[1..], [legs(&[3])]);
}

#[test]
fn rule_17_servers_that_do_not_answer_keep_no_other_waiting() {
    let settings = Settings { acceptances_unstored: 4, ..Settings::default() };
    let mut rig = Rig::new(settings.clone(), BOOT);
    rig.core = Core::new(settings, &[(HERE, DomainId(1)), (THERE, DomainId(1))], [3; 32]);
    rig.give(Input::TermBegan(TOKEN));
    let up = |rig: &mut Rig, server: ServerId, numbers: std::ops::RangeInclusive<u8>| {
        let hear = |rig: &mut Rig, heard| rig.give(Input::Heard(server, heard));
        hear(rig, Heard::Up { boot: BOOT, table_revision: 1 });
        let ticket = rig.asked(|request| *request == Request::Inventory);
        let entries = numbers.clone().map(live).collect();
        hear(rig, Heard::Inventory(ticket, Ok(Inventory { boot: BOOT, table_revision: 10, entries })));
        let rows: Vec<_> = numbers.map(|number| StoredLeg { server, ..row(number, StoredState::InMeeting) }).collect();
        rig.look_up(&rows, &[]);
        let ticket = rig.asked(|request| matches!(request, Request::Attach(_)));
        let attached = Attached { session: 1, boot: BOOT, table_revision: 10 };
        hear(rig, Heard::Attached(ticket, Ok(attached)));
    };
    up(&mut rig, HERE, 1..=6);
    up(&mut rig, THERE, 7..=8);
    assert_eq!(rig.claimed(), [legs(&[1, 2, 3, 4, 5, 6]), legs(&[7, 8])], "the first has not answered");
    // Its link is given up: what it held is free.
    let ticket = rig.asks.iter().find(|(_, request, _)| matches!(request, Request::Takeover(_))).expect("asked").0;
    let lost = (legs(&[1, 2, 3, 4, 5, 6]), RequestError::LinkLost);
    rig.give(Input::Heard(HERE, Heard::Takeover(ticket, Err(lost))));
    rig.give(Input::Heard(HERE, Heard::Down { reason: "cut".to_owned() }));
    up(&mut rig, HERE, 1..=6);
    assert_eq!(rig.claimed().len(), 3);
}
