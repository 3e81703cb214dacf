//! Goal: what the core concludes from answers that are no success. Method: the core driven by hand.

use crate::core_rig::Rig;
use crate::plan::{BOOT, entry, leg, row};
use remeet::model::{CommandId, Intent, StoredLeg, StoredState};
use remeet::recovery::{AlarmKind, Command, Input, Read, ReadResult, Rights, Settings, Waiter};
use remeet::session::{Heard, Request, RequestError, TakeoverResults};
use remeet::store::{Found, Instance, LookUp, Outcome, Unit, Write};
use remeet_protocol::message::{
    AdoptAnswer, AdoptOrphan, ClientCommand, ClientOp, CommandAnswer, End, EndCause, Event, EventGap, EventKind,
    Failure, LegState, MeetingState, Op, TakeoverResult,
};
use remeet_protocol::record::Mark;
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, Epoch, ErrorCode, Handle, Holder, MeetingId, Token};
use std::time::Duration;

/// A leg's claim is on its way.
fn claiming(state: StoredState) -> Rig {
    let mut rig = Rig::new(Settings::default(), BOOT);
    rig.inventory(BOOT, 10, vec![entry(1, 101, LegState::Live, EndCause::None)]);
    rig.look_up(&[row(1, state)], &[]);
    rig.attach(BOOT, 10);
    rig
}

/// Its server carries a leg that the store does not know, under handle 101.
fn with_orphan() -> Rig {
    let mut rig = Rig::new(Settings::default(), BOOT);
    rig.inventory(BOOT, 10, vec![entry(1, 101, LegState::Live, EndCause::None)]);
    rig.look_up(&[], &[]);
    rig.attach(BOOT, 10);
    rig
}

/// An operator's command.
fn command(number: u64, meeting: MeetingId, op: ClientOp) -> Input {
    let command = ClientCommand { instance: 1, number, meeting, op };
    Input::Command(Command { waiter: Waiter(number), rights: Rights { control: true, operator: true }, command })
}

/// To adopt it; as the first command of its instance.
fn adopt(rig: &mut Rig, end: bool) -> AdoptOrphan {
    let adopt = AdoptOrphan { server: crate::plan::HERE, handle: Handle(101), leg: leg(1), end };
    rig.give(command(1, MeetingId::default(), ClientOp::Adopt(adopt.clone())));
    let id = rig.reads.last().expect("the instance is read").0;
    rig.give(Input::Read(id, Ok(ReadResult::Instance(Instance::default()))));
    adopt
}

#[test]
fn rule_3_one_that_is_fenced_within_a_conversation_attaches_again_and_tells_whose_the_server_is() {
    let mut rig = Rig::new(Settings::default(), BOOT);
    rig.take_over(BOOT, &row(1, StoredState::InMeeting), Mark::default());
    let attaches = |rig: &Rig| rig.count(|request| matches!(request, Request::Attach(_)));
    assert_eq!(attaches(&rig), 1);
    rig.hear(Heard::Fenced);
    assert!(!rig.core.server_views()[0].attached, "nobody is told that it commands here");
    rig.after(Duration::from_secs(60));
    rig.inventory(BOOT, 10, Vec::new());
    assert_eq!(attaches(&rig), 2);
    let ticket = rig.asked(|request| matches!(request, Request::Attach(_)));
    let newer = Token { epoch: Epoch(9), holder: Holder::from_bytes([9; 16]) };
    let failure = Failure { token: newer, ..Failure::new(ErrorCode::STALE_TOKEN, "older") };
    rig.hear(Heard::Attached(ticket, Err(RequestError::Refused(failure))));
    assert_eq!(rig.newer, [newer]);
}

/// Found by a review: the cache answered before the store did, and subscribers were told the state of before.
#[test]
fn rule_15_that_a_leg_is_refreshed_is_told_once_its_acceptance_stands() {
    let mark = Mark { revision: 1, ..Mark::default() };
    let mut rig = Rig::new(Settings::default(), BOOT);
    rig.accept(BOOT, &StoredLeg { mark, ..row(1, StoredState::InMeeting) }, mark);
    rig.no_stamps();
    rig.cached(leg(1));
    let told = |rig: &Rig| rig.published.iter().map(|told| (told.kind, told.state)).collect::<Vec<_>>();
    assert_eq!(told(&rig), []);
    rig.stored();
    assert_eq!(told(&rig), [(EventKind::Refreshed, MeetingState::InMeeting)]);
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_asked() {
    let mut rig = claiming(StoredState::InMeeting);
    rig.claim_answered(BOOT, &row(1, StoredState::InMeeting), ErrorCode::BUSY, 20_000);
    let inventories = |rig: &Rig| rig.count(|request| *request == Request::Inventory);
    rig.after(Duration::from_secs(19));
    assert_eq!(inventories(&rig), 1, "it asked for 20 s");
    rig.after(Duration::from_secs(2));
    assert_eq!(inventories(&rig), 2);
}

#[test]
fn a_server_that_asks_for_an_hour_is_asked_again_after_a_minute() {
    let mut rig = claiming(StoredState::InMeeting);
    rig.claim_answered(BOOT, &row(1, StoredState::InMeeting), ErrorCode::BUSY, 3_600_000);
    rig.after(Duration::from_secs(61));
    assert_eq!(rig.count(|request| *request == Request::Inventory), 2);
}

#[test]
fn rule_8_a_claim_that_is_answered_unknown_meeting_ends_the_leg_with_the_cause_that_fits() {
    for (state, cause, alarms) in
        [(StoredState::InMeeting, EndCause::Vanished, 1), (StoredState::Ending, EndCause::Commanded, 0)]
    {
        let mut rig = claiming(state);
        rig.claim_answered(BOOT, &row(1, state), ErrorCode::UNKNOWN_MEETING, 0);
        assert_eq!(rig.states(), [(leg(1), StoredState::Ended, cause)], "{state:?}");
        let told = rig.alarms.iter().filter(|alarm| alarm.kind == AlarmKind::Vanished).count();
        assert_eq!(told, alarms, "{state:?}");
    }
}

/// Found by the simulation (seeds 17485 and 17500).
#[test]
fn rule_9_a_gap_is_not_acknowledged_while_the_end_that_its_round_found_is_not_stored() {
    let mut rig = Rig::new(Settings::default(), BOOT);
    let mark = Mark { revision: 1, ..Mark::default() };
    let in_meeting = StoredLeg { mark, ..row(1, StoredState::InMeeting) };
    rig.take_over(BOOT, &in_meeting, mark);
    rig.no_stamps();
    rig.stored();
    rig.hear(Heard::Gap(EventGap { first: 1, last: 7 }));
    let ended = || vec![entry(1, 101, LegState::Ended, EndCause::ByServer)];
    rig.inventory(BOOT, 11, ended());
    assert_eq!(rig.states(), [(leg(1), StoredState::Ended, EndCause::ByServer)]);
    for (id, _) in std::mem::take(&mut rig.persists) {
        rig.give(Input::Written(id, Outcome::Lost { version: 9 }));
    }
    rig.look_up(&[StoredLeg { version: 9, epoch: crate::core_rig::TOKEN.epoch, ..in_meeting }], &[]);
    rig.stored();
    assert_eq!(rig.acknowledged, [0; 0], "the server would forget the end");
    rig.after(Duration::from_secs(6));
    rig.inventory(BOOT, 11, ended());
    rig.stored();
    assert_eq!(rig.acknowledged, [7]);
}

/// Found by the simulation (seeds 27249 and 32514): the round waited for an answer, its server held that back behind events
/// that it could not send before the gap was acknowledged, and only the next round could close the gap.
#[test]
fn a_round_waits_for_no_command_while_a_gap_waits_for_the_next_round() {
    let end = Op::End(End { cause: EndCause::Commanded });
    let end = Intent { leg: leg(1), number: 1, op: end, command: None };
    let mut rig = Rig::new(Settings::default(), BOOT);
    rig.inventory(BOOT, 10, vec![entry(1, 101, LegState::Live, EndCause::None)]);
    let ending = row(1, StoredState::Ending);
    rig.look_up(std::slice::from_ref(&ending), &[end]);
    rig.attach(BOOT, 10);
    rig.claim_answered(BOOT, &ending, ErrorCode::OK, 0);
    rig.stored();
    rig.asked(|request| matches!(request, Request::Command(_)));
    let inventories = |rig: &Rig| rig.count(|request| *request == Request::Inventory);
    assert_eq!(inventories(&rig), 1);
    rig.hear(Heard::Gap(EventGap { first: 1, last: 7 }));
    assert_eq!(inventories(&rig), 2);
    assert!(rig.core.server_views()[0].reports.values().all(|report| report.adds_up()), "rule 6");
}

/// Found by the simulation (seed 43759): its client asked again and again, and was told nothing.
#[test]
fn the_leg_of_an_open_command_that_could_not_be_read_is_read_again() {
    let mut rig = Rig::new(Settings::default(), BOOT);
    let command = ClientCommand { instance: 1, number: 1, meeting: leg(1).meeting, op: ClientOp::End };
    let rights = Rights { control: true, operator: false };
    rig.give(Input::Command(Command { waiter: Waiter(1), rights, command }));
    let id = rig.reads.last().expect("the instance is read").0;
    let instance = Instance { open: vec![(1, leg(1), 2)], ..Instance::default() };
    rig.give(Input::Read(id, Ok(ReadResult::Instance(instance))));
    let id = rig.reads.last().expect("its leg is read").0;
    rig.give(Input::Read(id, Err("the store is down".to_owned())));
    rig.after(Settings::default().round_retry);
    assert_ne!(rig.reads.last().expect("and again").0, id);
    let op = Op::End(End { cause: EndCause::Commanded });
    let open = Intent { leg: leg(1), number: 2, op, command: Some(CommandId { instance: 1, number: 1 }) };
    rig.look_up(&[row(1, StoredState::Ended)], &[open]);
    rig.stored();
    assert_eq!(rig.answers.last().map(|answer| answer.code), Some(ErrorCode::OK));
}

/// Found by the simulation (seed 24501).
#[test]
fn of_two_reads_of_a_row_that_changed_the_newer_counts_whichever_is_answered_last() {
    let mut rig = claiming(StoredState::InMeeting);
    rig.claim_answered(BOOT, &row(1, StoredState::InMeeting), ErrorCode::OK, 0);
    let (mark, changes, ended) = (Mark::default(), Vec::new(), EndCause::ByServer);
    rig.hear(Heard::Event(Event { number: 1, leg: leg(1), handle: Handle(101), previous: 0, mark, ended, changes }));
    let lost: Vec<_> = std::mem::take(&mut rig.persists).into_iter().map(|(id, _)| id).collect();
    assert!(lost.len() > 1, "the acceptance and the end");
    let reads = |rig: &Rig| {
        let again = rig.reads.iter().filter(|(_, read)| matches!(read, Read::Legs(_)));
        again.map(|(id, _)| *id).collect::<Vec<_>>()
    };
    for id in lost {
        rig.give(Input::Written(id, Outcome::Lost { version: 9 }));
    }
    let ids = reads(&rig);
    let found = |row: StoredLeg| LookUp { found: vec![Found { row, key: None, open: Vec::new() }], bad: Vec::new() };
    let newest = StoredLeg { version: 9, ..row(1, StoredState::InMeeting) };
    rig.give(Input::Read(*ids.last().expect("it is read again"), Ok(ReadResult::LookUp(found(newest.clone())))));
    let older = StoredLeg { version: 4, ..row(1, StoredState::Starting) };
    rig.give(Input::Read(ids[0], Ok(ReadResult::LookUp(found(older)))));
    assert!(ids.len() > 1, "both were read again");
    let (state, _) = rig.core.derive(std::slice::from_ref(&newest));
    assert_ne!(state, MeetingState::Starting, "memory goes by the newer one");
}

#[test]
fn rule_9_after_an_end_that_no_event_has_told_nothing_is_acknowledged_until_a_round_has_stored_it() {
    let mut rig = claiming(StoredState::InMeeting);
    rig.claim_answered(BOOT, &row(1, StoredState::InMeeting), ErrorCode::ENDED, 0);
    let (mark, changes) = (Mark::default(), Vec::new());
    let orphans =
        Event { number: 7, leg: leg(9), handle: Handle(109), previous: 1, mark, ended: EndCause::None, changes };
    rig.hear(Heard::Event(orphans));
    assert_eq!(rig.acknowledged, [0; 0], "its server would forget the end, and could start the leg again");
    rig.inventory(BOOT, 11, vec![entry(1, 101, LegState::Ended, EndCause::ByServer)]);
    if matches!(rig.reads.last(), Some((_, Read::LookUp { .. } | Read::Legs(_)))) {
        rig.look_up(&[row(1, StoredState::InMeeting)], &[]);
    }
    assert_eq!(rig.states(), [(leg(1), StoredState::Ended, EndCause::ByServer)]);
    assert_eq!(rig.acknowledged, [0; 0], "it is not stored yet");
    rig.stored();
    assert_eq!(rig.acknowledged, [7]);
}

#[test]
fn an_adoption_that_was_not_looked_at_is_asked_again_after_a_pause_and_closes_nothing() {
    for (code, closes) in [
        (ErrorCode::INTERNAL, false),
        (ErrorCode::NOT_ATTACHED, false),
        (ErrorCode::BELOW_WINDOW, false),
        (ErrorCode::NOT_ALLOWED, true),
    ] {
        let mut rig = with_orphan();
        adopt(&mut rig, false);
        rig.stored();
        let ticket = rig.asked(|request| matches!(request, Request::Adopt(_)));
        let failure = Failure::new(code, "for some reason");
        rig.hear(Heard::Adopted(ticket, Err(RequestError::Refused(failure))));
        let ended = rig.states().iter().any(|(_, state, _)| *state == StoredState::Ended);
        assert_eq!(ended, closes, "{code}");
        let asked = rig.count(|request| *request == Request::Inventory);
        assert_eq!(asked, 1, "{code}: not at once");
        if !closes {
            rig.after(Duration::from_secs(6));
            assert_eq!(rig.count(|request| *request == Request::Inventory), 2, "{code}");
        }
    }
}

#[test]
fn an_orphan_is_forgotten_with_the_table_that_its_handle_was_of() {
    for (boot, kept) in [(BOOT, 1), (BootId::from_bytes([77; 16]), 0)] {
        let mut rig = with_orphan();
        rig.hear(Heard::Down { reason: "the server restarted".to_owned() });
        rig.hear(Heard::Up { boot, table_revision: 1 });
        assert_eq!(rig.core.orphans().count(), kept, "in the new table the handle is another leg's, or nobody's");
        assert_eq!(rig.alarms_over.len(), 1 - kept, "and the operator is told that the condition is over");
    }
}

#[test]
fn an_orphan_that_is_adopted_and_being_ended_is_not_adopted_a_second_time() {
    let mut rig = with_orphan();
    let adopt = adopt(&mut rig, false);
    rig.stored();
    let ticket = rig.asked(|request| matches!(request, Request::Adopt(_)));
    let (code, mark) = (ErrorCode::OK, Mark::default());
    rig.hear(Heard::Adopted(ticket, Ok(AdoptAnswer { code, boot: BOOT, table_revision: 11, mark, intent: 0 })));
    rig.stored();
    let adopted = rig.answers.last().expect("it is adopted").meeting;
    rig.give(command(2, adopted, ClientOp::End));
    rig.stored();
    rig.give(command(3, MeetingId::default(), ClientOp::Adopt(adopt)));
    rig.stored();
    assert_eq!(rig.answers.last().map(|answer| (answer.number, answer.code)), Some((3, ErrorCode::WRONG_STATE)));
    assert_eq!(rig.count(|request| matches!(request, Request::Adopt(_))), 1);
}

#[test]
fn an_adopted_leg_whose_end_overtakes_the_answer_stays_ended_and_leaves_nothing_open() {
    let mut rig = with_orphan();
    adopt(&mut rig, true);
    let new_leg = |write: &Write| match write {
        Write::NewLeg(new) => Some(new.row.leg),
        _ => None,
    };
    let writes = |rig: &Rig| rig.persists.iter().flat_map(|(_, unit)| unit.writes.clone()).collect::<Vec<Write>>();
    let adopted = writes(&rig).iter().find_map(new_leg).expect("a new leg");
    rig.stored();
    let ticket = rig.asked(|request| matches!(request, Request::Adopt(_)));
    rig.hear(Heard::Event(Event {
        number: 1,
        leg: adopted,
        handle: Handle(101),
        previous: 3,
        mark: Mark::default(),
        ended: EndCause::ByServer,
        changes: Vec::new(),
    }));
    let (code, mark) = (ErrorCode::OK, Mark::default());
    let answer = AdoptAnswer { code, boot: BOOT, table_revision: 11, mark, intent: 0 };
    rig.hear(Heard::Adopted(ticket, Ok(answer)));
    rig.stored();
    let asked = rig.count(|request| matches!(request, Request::Command(_) | Request::Pull { .. }));
    assert_eq!(asked, 0, "it is over");
    let done = |write: Write| match write {
        Write::IntentDone(result) => Some(result.number),
        _ => None,
    };
    let done: Vec<u64> = writes(&rig).into_iter().filter_map(done).collect();
    assert_eq!(done, [1, 2], "start and end are both settled");
    rig.stored();
    assert!(rig.answers.iter().any(|answer| answer.code.is_ok()), "ending what has ended is done");
}

/// The number of the intent of an end that is asked for now, if it is one yet.
fn end_is_numbered(rig: &mut Rig, meeting: MeetingId) -> Option<u64> {
    rig.give(command(7, meeting, ClientOp::End));
    if let Some((id, Read::Instance(_))) = rig.reads.last().cloned() {
        rig.give(Input::Read(id, Ok(ReadResult::Instance(Instance::default()))));
    }
    let writes = rig.persists.iter().flat_map(|(_, unit)| &unit.writes);
    let number = |write: &Write| match write {
        Write::Intent(intent) if matches!(intent.op, Op::End(_)) => Some(intent.number),
        _ => None,
    };
    writes.filter_map(number).next_back()
}

/// Found by the simulation (seed 75), when its database first lost what was written last: an end got the answer of a lost
/// command of its number, and the meeting stood as ended and ran on.
#[test]
fn rule_11_numbers_of_commands_that_the_database_has_lost_are_not_used_again() {
    let number_after = |executed: u64| {
        let mut rig = claiming(StoredState::InMeeting);
        let ticket = rig.asked(|request| matches!(request, Request::Takeover(_)));
        let result = TakeoverResult {
            handle: Handle(101),
            leg: leg(1),
            code: ErrorCode::OK,
            retry_after_ms: 0,
            mark: Mark::default(),
            intent: executed,
        };
        let results = TakeoverResults { boot: BOOT, table_revision: 10, results: vec![result] };
        rig.hear(Heard::Takeover(ticket, Ok(results)));
        rig.stored();
        let wrong = rig.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Misbehaviour);
        (end_is_numbered(&mut rig, leg(1).meeting), wrong)
    };
    let stored = row(1, StoredState::InMeeting).intent;
    assert_eq!(number_after(0), (Some(stored + 1), false));
    assert_eq!(number_after(stored), (Some(stored + 1), false));
    assert_eq!(number_after(stored + 7), (Some(stored + 8), false));
    // Rule 17: no history, but a damaged number. No command could run.
    assert_eq!(number_after(u64::MAX), (None, true));
}

#[test]
fn rule_11_nor_are_those_that_an_adopted_leg_has_executed() {
    let mut rig = with_orphan();
    adopt(&mut rig, false);
    let new_leg = |(_, unit): &(_, Unit)| unit.writes.iter().find_map(Write::leg);
    let adopted = rig.persists.iter().find_map(new_leg).expect("a new leg");
    rig.stored();
    let ticket = rig.asked(|request| matches!(request, Request::Adopt(_)));
    let (code, mark) = (ErrorCode::OK, Mark::default());
    rig.hear(Heard::Adopted(ticket, Ok(AdoptAnswer { code, boot: BOOT, table_revision: 11, mark, intent: 9 })));
    rig.stored();
    assert_eq!(end_is_numbered(&mut rig, adopted.meeting), Some(10));
}

/// Found by the simulation (seed 16517): the leg was forgotten before its end's answer came, and nobody was told.
#[test]
fn rule_15_an_end_is_told_though_its_row_was_read_while_it_was_on_its_way() {
    let mut rig = claiming(StoredState::InMeeting);
    let in_meeting = row(1, StoredState::InMeeting);
    rig.claim_answered(BOOT, &in_meeting, ErrorCode::OK, 0);
    let (mark, changes, ended) = (Mark::default(), Vec::new(), EndCause::ByServer);
    rig.hear(Heard::Event(Event { number: 1, leg: leg(1), handle: Handle(101), previous: 0, mark, ended, changes }));
    let ids: Vec<_> = std::mem::take(&mut rig.persists).into_iter().map(|(id, _)| id).collect();
    let [acceptance, end] = ids.as_slice() else { panic!("{ids:?}") };
    rig.give(Input::Written(*end, Outcome::Lost { version: 9 }));
    rig.look_up(&[StoredLeg { version: 9, ..in_meeting.clone() }], &[]);
    rig.inventory(BOOT, 11, vec![entry(1, 101, LegState::Ended, EndCause::ByServer)]);
    assert_eq!(rig.states(), [(leg(1), StoredState::Ended, EndCause::ByServer)]);
    let again = std::mem::take(&mut rig.persists);
    rig.give(Input::Written(*acceptance, Outcome::Lost { version: 9 }));
    rig.look_up(&[StoredLeg { version: 10, state: StoredState::Ended, cause: EndCause::ByServer, ..in_meeting }], &[]);
    rig.stored();
    // Rounds come and go.
    rig.after(Duration::from_secs(6));
    rig.inventory(BOOT, 11, Vec::new());
    assert!(!rig.published.iter().any(|published| published.kind == EventKind::Ended), "not before it stands");
    for (id, _) in again {
        rig.give(Input::Written(id, Outcome::Applied { version: 10 }));
    }
    assert_eq!(rig.published.iter().filter(|published| published.kind == EventKind::Ended).count(), 1);
}

/// Found by the simulation (seed 32261).
#[test]
fn a_leg_that_was_closed_by_absence_and_lives_stays_in_trouble_after_the_round() {
    let mut rig = Rig::new(Settings::default(), BOOT);
    rig.inventory(BOOT, 10, vec![entry(1, 101, LegState::Live, EndCause::None)]);
    rig.look_up(&[StoredLeg { cause: EndCause::Vanished, ..row(1, StoredState::Ended) }], &[]);
    rig.attach(BOOT, 10);
    rig.inventory(BOOT, 10, vec![entry(1, 101, LegState::Live, EndCause::None)]);
    assert!(rig.core.server_views()[0].round.is_none(), "{:?}", rig.core.server_views());
    assert_eq!(rig.core.pending(), [(crate::plan::HERE, leg(1), "conflict".to_owned())]);
    // Until it is over.
    rig.hear(Heard::Gap(EventGap { first: 1, last: 2 }));
    rig.inventory(BOOT, 11, Vec::new());
    assert_eq!(rig.core.pending(), []);
}

/// Its server has run the start for a term of before, and says so while it is being asked to hand the leg over.
#[test]
fn a_start_that_is_refused_for_want_of_control_does_not_undo_the_claim_that_is_under_way_or_was_just_accepted() {
    refused_beside_a_claim(true);
    refused_beside_a_claim(false);
}

fn refused_beside_a_claim(before_its_answer: bool) {
    let mut rig = Rig::new(Settings::default(), BOOT);
    rig.inventory(BOOT, 10, Vec::new());
    rig.look_up(&[row(1, StoredState::Created)], &[]);
    rig.attach(BOOT, 10);
    rig.give(Input::Reconcile(None));
    rig.give(command(1, leg(1).meeting, ClientOp::Start));
    let id = rig.reads.last().expect("the instance is read").0;
    rig.give(Input::Read(id, Ok(ReadResult::Instance(Instance::default()))));
    rig.look_up(&[row(1, StoredState::Created)], &[]);
    rig.stored();
    let start = rig.asked(|request| matches!(request, Request::Command { .. }));
    rig.inventory(BOOT, 10, vec![entry(1, 101, LegState::Live, EndCause::None)]);
    let id = rig.reads.last().filter(|(_, read)| matches!(read, Read::CachedKeys(_))).expect("keys are read").0;
    rig.give(Input::Read(id, Err("the cache is away".to_owned())));
    rig.look_up(&[row(1, StoredState::Starting)], &[]);
    assert_eq!(rig.count(|request| matches!(request, Request::Takeover(_))), 1);
    let refused = CommandAnswer {
        leg: leg(1),
        handle: Handle(0),
        intent: 1,
        code: ErrorCode::NOT_ATTACHED,
        detail: Text::cut("it has started; the token has not taken it over"),
        boot: BOOT,
        table_revision: 10,
        mark: Mark::default(),
    };
    let refused = Heard::Commanded(start, Ok(refused));
    if before_its_answer {
        rig.hear(refused.clone());
    }
    rig.claim_answered(BOOT, &row(1, StoredState::InMeeting), ErrorCode::OK, 0);
    if !before_its_answer {
        rig.hear(refused);
    }
    rig.stored();
    assert_eq!(rig.core.server_views()[0].in_meeting, 1, "{:?}", rig.core.server_views());
}
