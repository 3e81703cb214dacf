//! Goal: rule 17 for claims: a server takes legs over faster than the store writes that it did, and what is under way has
//! a bound all the same, which a server that does not answer keeps from nobody. Method: the core driven by hand with
//! small bounds.

use crate::core_rig::{Rig, TOKEN};
use crate::plan::{BOOT, HERE, entry, leg, row};
use remeet::model::{StoredLeg, StoredState};
use remeet::recovery::{Core, Input, Read, ReadResult, Settings, Trigger};
use remeet::session::{Heard, Inventory, PulledPage, Request, RequestError, Ticket};
use remeet::store::{CachedKey, LookUp, Outcome};
use remeet_protocol::message::{Attached, EndCause, Event, InventoryEntry, LegState};
use remeet_protocol::record::Mark;
use remeet_protocol::{Digest, DomainId, ErrorCode, Handle, LegId, Secret, ServerId};
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

/// Legs in trouble, by number, and why.
fn pending(rig: &Rig) -> Vec<(u8, String)> {
    let number = |id: LegId| (1..=9).find(|number| leg(*number) == id).expect("one of these");
    rig.core.pending().into_iter().map(|(_, id, why)| (number(id), why)).collect()
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
    let first = rig.asked(|request| matches!(request, Request::Takeover(_)));
    for number in 1..=2 {
        rig.after(Duration::from_secs(50));
        rig.results(BOOT, first, &[(number, ErrorCode::OK)], 0);
    }
    assert_eq!((rig.claimed().len(), trouble(&rig)), (3, None), "it is slow");
    // That it does not answer some is no reason not to ask the others; but none has a longer time for that.
    rig.after(Duration::from_secs(50));
    let tickets: Vec<Ticket> = rig.takeovers().map(|(ticket, _)| ticket).collect();
    rig.hear(Heard::Takeover(tickets[1], Err((legs(&[3]), RequestError::NoAnswer))));
    rig.hear(Heard::Takeover(tickets[2], Err((legs(&[4]), RequestError::NoAnswer))));
    assert_eq!((rig.claimed()[3..].concat(), trouble(&rig)), (legs(&[5, 6]), None));
    assert_eq!(pending(&rig), [(3, "unreachable".to_owned()), (4, "unreachable".to_owned())]);
    rig.after(Duration::from_secs(11));
    assert_eq!(trouble(&rig).as_deref(), Some("the round did not end in time"));
}

#[test]
fn what_an_earlier_request_brought_says_nothing_of_what_was_asked_since() {
    let mut rig = six(Settings { acceptances_unstored: 8, claims_in_flight: 2, ..Settings::default() });
    let first = rig.asked(|request| matches!(request, Request::Takeover(_)));
    // Nothing is answered; another round asks anew.
    rig.after(Duration::from_secs(61));
    rig.after(Settings::default().round_retry);
    rig.inventory(BOOT, 10, (1..=6).map(live).collect());
    rig.look_up(&(1..=6).map(stored).collect::<Vec<_>>(), &[]);
    assert_eq!(rig.claimed()[1..], [legs(&[1, 2])]);
    let second = rig.asked(|request| matches!(request, Request::Takeover(_)));
    rig.results(BOOT, second, &[(1, ErrorCode::OK)], 0);
    rig.stored();
    rig.hear(Heard::Takeover(first, Err((legs(&[1, 2]), RequestError::NoAnswer))));
    assert_eq!((rig.core.server_views()[0].in_meeting, pending(&rig)), (1, Vec::new()));
    // Nor does an acceptance that it asked for.
    rig.after(Duration::from_secs(50));
    rig.results(BOOT, first, &[(2, ErrorCode::OK)], 0);
    rig.after(Duration::from_secs(11));
    let trouble = rig.core.server_views()[0].trouble.clone();
    assert_eq!(trouble.as_deref(), Some("the round did not end in time"));
}

#[test]
fn a_server_that_is_busy_with_all_that_it_is_asked_is_asked_for_the_rest_a_little_later_and_before_back_fill() {
    let mut rig = six(Settings { claims_in_flight: 2, ..Settings::default() });
    let ticket = rig.asked(|request| matches!(request, Request::Takeover(_)));
    rig.results(BOOT, ticket, &[(1, ErrorCode::BUSY), (2, ErrorCode::BUSY)], 1_500);
    assert_eq!(rig.claimed().len(), 1);
    rig.after(Duration::from_millis(1_499));
    assert_eq!(rig.claimed().len(), 1, "it said when to ask again");
    rig.after(Duration::from_millis(1));
    assert_eq!(rig.claimed()[1..], [legs(&[3, 4])], "in the same round");
    rig.grant(BOOT, AT);
    rig.grant(BOOT, AT);
    assert_eq!(pending(&rig), [(1, "busy".to_owned()), (2, "busy".to_owned())]);
}

#[test]
fn a_leg_that_is_busy_alone_keeps_no_other_waiting() {
    let mut rig = six(Settings { claims_in_flight: 2, ..Settings::default() });
    let ticket = rig.asked(|request| matches!(request, Request::Takeover(_)));
    rig.results(BOOT, ticket, &[(1, ErrorCode::BUSY), (2, ErrorCode::OK)], 60_000);
    assert_eq!(rig.claimed()[1..], [legs(&[3, 4])]);
}

#[test]
fn rule_6_a_leg_that_ended_while_it_was_in_trouble_has_ended() {
    let mut rig = six(Settings { claims_in_flight: 2, ..Settings::default() });
    rig.hear(end(2));
    let ticket = rig.asked(|request| matches!(request, Request::Takeover(_)));
    rig.hear(Heard::Takeover(ticket, Err((legs(&[1, 2]), RequestError::NoAnswer))));
    rig.grant(BOOT, AT);
    rig.grant(BOOT, AT);
    rig.stored();
    rig.no_stamps();
    let report = rig.core.report(Trigger::Restart);
    assert_eq!((report.live, report.recovered, report.ended, report.pending_total()), (6, 4, 1, 1));
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

/// Two servers, of which nothing is known yet.
fn two(settings: Settings) -> Rig {
    let mut rig = Rig::new(settings.clone(), BOOT);
    rig.core = Core::new(settings, &[(HERE, DomainId(1)), (THERE, DomainId(1))], [3; 32]);
    rig.give(Input::TermBegan(TOKEN));
    rig
}

/// The server is up and tells its legs.
fn told(rig: &mut Rig, server: ServerId, numbers: std::ops::RangeInclusive<u8>) {
    rig.give(Input::Heard(server, Heard::Up { boot: BOOT, table_revision: 1 }));
    let ticket = rig.asked(|request| *request == Request::Inventory);
    let inventory = Inventory { boot: BOOT, table_revision: 10, entries: numbers.map(live).collect() };
    rig.give(Input::Heard(server, Heard::Inventory(ticket, Ok(inventory))));
}

/// The same, they are looked up, and it has admitted the term.
fn up(rig: &mut Rig, server: ServerId, numbers: std::ops::RangeInclusive<u8>) {
    told(rig, server, numbers.clone());
    rig.look_up(&numbers.map(|number| StoredLeg { server, ..stored(number) }).collect::<Vec<_>>(), &[]);
    let ticket = rig.asked(|request| matches!(request, Request::Attach(_)));
    let attached = Attached { session: 1, boot: BOOT, table_revision: 10 };
    rig.give(Input::Heard(server, Heard::Attached(ticket, Ok(attached))));
}

#[test]
fn rule_17_servers_that_do_not_answer_keep_no_other_waiting() {
    let mut rig = two(Settings { acceptances_unstored: 4, claims_at_least: 1, ..Settings::default() });
    up(&mut rig, HERE, 1..=6);
    up(&mut rig, THERE, 7..=9);
    assert_eq!(rig.claimed(), [legs(&[1, 2, 3, 4, 5, 6]), legs(&[7])], "the first holds all the room");
    // Its link is given up: what it held is free.
    let ticket = rig.asks.iter().find(|(_, request, _)| matches!(request, Request::Takeover(_))).expect("asked").0;
    let lost = (legs(&[1, 2, 3, 4, 5, 6]), RequestError::LinkLost);
    rig.give(Input::Heard(HERE, Heard::Takeover(ticket, Err(lost))));
    rig.give(Input::Heard(HERE, Heard::Down { reason: "cut".to_owned() }));
    up(&mut rig, HERE, 1..=6);
    assert_eq!(rig.claimed()[2..], [legs(&[1, 2, 3, 4, 5, 6])]);
}

#[test]
fn rule_17_look_ups_wait_while_many_claims_wait_for_the_store() {
    let settings = Settings { acceptances_unstored: 2, claims_in_flight: 2, legs_unclaimed: 3, ..Settings::default() };
    let look_ups = |rig: &Rig| rig.reads.iter().filter(|(_, read)| matches!(read, Read::LookUp { .. })).count();
    let mut rig = two(settings);
    up(&mut rig, HERE, 1..=6);
    rig.grant(BOOT, AT);
    told(&mut rig, THERE, 7..=9);
    assert_eq!(look_ups(&rig), 1, "four claims of the first wait");
    assert_eq!(rig.count(|request| matches!(request, Request::Attach(_))), 2, "control is asked for all the same");
    // The store is down for longer than a round may take.
    for _ in 0..200 {
        rig.after(Duration::from_secs(1));
    }
    let views = rig.core.server_views();
    assert_eq!((look_ups(&rig), views[1].round, &views[1].trouble), (1, Some("waiting for the store"), &None));
    let (id, _) = rig.persists.remove(0);
    rig.give(Input::Written(id, Outcome::Applied { version: 4 }));
    assert_eq!(look_ups(&rig), 2);
    assert_eq!(rig.core.server_views()[1].round, Some("looking up"));
    rig.after(Duration::from_secs(59));
    assert_eq!(rig.core.server_views()[1].trouble, None, "its time begins when it is asked");
}

#[test]
fn rule_17_look_ups_wait_for_each_other_if_they_are_large_and_go_on_if_one_fails() {
    let mut rig = two(Settings { legs_unclaimed: 3, ..Settings::default() });
    told(&mut rig, HERE, 1..=6);
    let (first, _) = rig.reads[0];
    told(&mut rig, THERE, 7..=9);
    assert_eq!(rig.reads.len(), 1);
    rig.give(Input::Read(first, Err("it takes too long".to_owned())));
    assert!(matches!(rig.reads[1..], [(_, Read::LookUp { server: THERE, .. })]), "{:?}", rig.reads);
}

#[test]
fn rule_17_look_ups_do_not_wait_for_the_claims_of_a_server_that_hangs() {
    let mut rig = two(Settings { claims_in_flight: 2, legs_unclaimed: 3, ..Settings::default() });
    up(&mut rig, HERE, 1..=6);
    told(&mut rig, THERE, 7..=9);
    assert_eq!(rig.reads.len(), 1, "four claims of the first wait behind two that are being answered");
    assert!(rig.core.next_wake().is_some_and(|at| at <= rig.now + Duration::from_secs(1)));
    rig.after(Duration::from_millis(1_001));
    assert!(matches!(rig.reads[1..], [(_, Read::LookUp { server: THERE, .. })]), "they are not: {:?}", rig.reads);
}

#[test]
fn rule_17_look_ups_do_not_wait_for_the_claims_of_a_server_that_is_slow() {
    let mut rig = two(Settings { claims_in_flight: 2, legs_unclaimed: 1, ..Settings::default() });
    up(&mut rig, HERE, 1..=6);
    told(&mut rig, THERE, 7..=9);
    let first = rig.asked(|request| matches!(request, Request::Takeover(_)));
    for number in 1..=2 {
        rig.after(Duration::from_millis(900));
        rig.results(BOOT, first, &[(number, ErrorCode::OK)], 0);
    }
    assert!(matches!(rig.reads[1..], [(_, Read::LookUp { server: THERE, .. })]), "{:?}", rig.reads);
}

/// The database is read for the key of a leg that ends meanwhile; another one is being back-filled when that comes.
#[test]
fn a_key_that_comes_when_its_leg_has_left_the_round_disturbs_no_back_fill() {
    let mut rig = six(Settings::default());
    rig.grant(BOOT, AT);
    rig.stored();
    rig.no_stamps();
    rig.hear(Heard::Down { reason: "cut".to_owned() });
    rig.hear(Heard::Up { boot: BOOT, table_revision: 10 });
    let ahead = Mark { revision: 9, ..AT };
    rig.inventory(BOOT, 10, (1..=2).map(|number| InventoryEntry { mark: ahead, ..live(number) }).collect());
    rig.attach(BOOT, 10);
    let (read, asked) = rig.reads.last().cloned().expect("keys are read");
    assert!(matches!(asked, Read::CachedKeys(_)), "{asked:?}");
    let cached = CachedKey { leg: leg(1), epoch: TOKEN.epoch, generation: 1, secret: Secret::new([9; 16]) };
    rig.give(Input::Read(read, Ok(ReadResult::CachedKeys(vec![cached]))));
    let (of_database, _) = rig.reads.last().cloned().expect("the other key is read");
    rig.grant(BOOT, ahead);
    rig.hear(end(2));
    rig.stored();
    let pull = rig.asked(|request| matches!(request, Request::Pull { .. }));
    rig.give(Input::Read(of_database, Ok(ReadResult::LookUp(LookUp::default()))));
    assert_eq!(rig.core.server_views()[0].round, Some("back-filling"));
    let page = PulledPage { leg: leg(1), changes: Vec::new(), full: false, complete: Some(ahead) };
    rig.hear(Heard::Pulled(pull, Ok(page)));
    assert_eq!(rig.contents().last().and_then(|write| write.mark), Some(ahead), "the pull counts");
}
