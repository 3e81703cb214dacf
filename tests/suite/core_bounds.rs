//! Goal: rule 17 in the core: every queue of commands, intents and orphans has its bound, and what goes beyond it
//! is answered `retry` at once. Method: the core driven by hand with small bounds.

use crate::core_rig::{Rig, TOKEN};
use crate::plan::{BOOT, HERE, entry, leg, row};
use remeet::model::{StoredLeg, StoredState};
use remeet::recovery::{Command, Input, Read, ReadResult, Rights, Settings, Waiter};
use remeet::session::{Heard, PulledPage, Request};
use remeet::store::{Instance, LookUp, Outcome, Write};
use remeet_protocol::message::{ClientCommand, ClientOp, Create, EndCause, InventoryEntry, LegState, SetExtra};
use remeet_protocol::record::{Mark, Number};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{Digest, ErrorCode, Handle, LegId};
use std::time::Duration;

impl Rig {
    /// Client 1 sends a command for a leg.
    fn command(&mut self, number: u64, leg: LegId) {
        let value = Some(Blob::new(vec![1]).unwrap());
        let op = ClientOp::SetExtra(SetExtra { number: Text::cut("1"), key: Text::cut("k"), value });
        self.send(number, leg, op);
    }

    fn send(&mut self, number: u64, leg: LegId, op: ClientOp) {
        let command = ClientCommand { instance: 1, number, meeting: leg.meeting, op };
        let rights = Rights { control: true, operator: true };
        self.give(Input::Command(Command { waiter: Waiter(number), rights, command }));
    }

    /// The first command's instance is read: nothing is kept of it.
    fn instance(&mut self) {
        let id = self.reads.last().expect("the instance is read").0;
        self.give(Input::Read(id, Ok(ReadResult::Instance(Instance::default()))));
    }

    fn retried(&self) -> Vec<u64> {
        let retried = self.answers.iter().filter(|answer| answer.code == ErrorCode::RETRY);
        retried.map(|answer| answer.number).collect()
    }
}

fn starting() -> StoredLeg {
    row(1, StoredState::Starting)
}

fn recovering(settings: Settings) -> Rig {
    let mut rig = Rig::new(settings, BOOT);
    rig.inventory(BOOT, 10, vec![entry(1, 101, LegState::Live, EndCause::None)]);
    rig.look_up(&[row(1, StoredState::InMeeting)], &[]);
    rig.command(1, leg(1));
    rig.instance();
    rig
}

/// A command on a terminal of a meeting of two legs waits for the store to say which of them has it.
#[test]
fn rule_17_a_command_that_waits_for_a_roster_is_answered_when_its_time_is_over_and_the_next_is_looked_up() {
    let settings = Settings { waiting_deadline: Duration::from_secs(10), ..Settings::default() };
    let mut rig = Rig::new(settings, BOOT);
    let first = row(1, StoredState::InMeeting);
    let second_leg = LegId { leg: 1, ..first.leg };
    let second = StoredLeg { leg: second_leg, handle: Some(Handle(102)), ..first.clone() };
    let live = entry(1, 101, LegState::Live, EndCause::None);
    rig.inventory(BOOT, 10, vec![live.clone(), InventoryEntry { leg: second_leg, handle: Handle(102), ..live }]);
    rig.look_up(&[first.clone(), second.clone()], &[]);
    rig.attach(BOOT, 10);
    for stored in [&first, &second] {
        rig.claim_answered(BOOT, stored, ErrorCode::OK, 0);
    }
    rig.stored();
    rig.command(1, first.leg);
    rig.instance();
    let rosters = |rig: &Rig| rig.reads.iter().filter(|(_, read)| matches!(read, Read::Roster { .. })).count();
    assert_eq!(rosters(&rig), 1, "{:?}", rig.reads);
    let late = rig.reads.last().expect("just seen").0;
    rig.after(Duration::from_secs(6));
    rig.command(2, first.leg);
    rig.after(Duration::from_secs(5));
    assert_eq!(rig.retried(), [1]);
    assert_eq!(rosters(&rig), 2, "the second command's turn has come");
    // What was read for the first decides nothing about the second.
    rig.give(Input::Read(late, Ok(ReadResult::Roster(vec![first.leg]))));
    assert_eq!((rosters(&rig), rig.answers.len()), (2, 1));
    let current = rig.reads.last().expect("just seen").0;
    rig.give(Input::Read(current, Ok(ReadResult::Roster(vec![first.leg]))));
    let intents = rig.persists.iter().flat_map(|(_, unit)| &unit.writes);
    assert_eq!(intents.filter(|write| matches!(write, Write::Intent(_))).count(), 1, "{:?}", rig.persists);
}

#[test]
fn rule_17_commands_that_wait_for_a_leg_are_bounded() {
    let mut rig = recovering(Settings { waiting_per_leg: 3, ..Settings::default() });
    for number in 2..=9 {
        rig.command(number, leg(1));
    }
    assert_eq!(rig.retried(), [4, 5, 6, 7, 8, 9], "at once, and with a time to come again");
    assert!(rig.answers.iter().all(|answer| answer.retry_after_ms > 0));
    rig.after(Settings::default().waiting_deadline);
    assert_eq!(rig.answers.len(), 9, "the others after their deadline");
    rig.command(10, leg(1));
    assert_eq!(rig.answers.len(), 9, "there is room again");
}

#[test]
fn rule_17_commands_that_wait_are_bounded_over_all_legs() {
    let mut rig = recovering(Settings { waiting_total: 2, ..Settings::default() });
    // These wait for their meeting to be read.
    for number in 2..=6 {
        rig.command(number, leg(20 + u8::try_from(number).unwrap()));
    }
    assert_eq!(rig.retried(), [3, 4, 5, 6]);
    let id = rig.reads.last().unwrap().0;
    rig.give(Input::Read(id, Ok(ReadResult::LookUp(LookUp::default()))));
    rig.command(7, leg(1));
    assert_eq!(rig.retried(), [3, 4, 5, 6], "one that was refused for good made room");
}

#[test]
fn rule_17_intents_of_a_leg_are_bounded() {
    let mut rig = Rig::new(Settings { intents_per_leg: 2, ..Settings::default() }, BOOT);
    rig.take_over(BOOT, &row(1, StoredState::InMeeting), Mark::default());
    rig.command(1, leg(1));
    rig.instance();
    for number in 2..=5 {
        rig.command(number, leg(1));
    }
    assert_eq!(rig.retried(), [3, 4, 5]);
    rig.stored();
    assert_eq!(rig.count(|request| matches!(request, Request::Command(_))), 1, "one of a leg is in flight");
}

#[test]
fn rule_17_orphans_are_bounded_and_their_number_is_told() {
    let mut rig = Rig::new(Settings { orphans_per_server: 3, ..Settings::default() }, BOOT);
    let orphans = (1..=9).map(|number| entry(number, 100 + u64::from(number), LegState::Live, EndCause::None));
    rig.inventory(BOOT, 10, orphans.collect());
    rig.look_up(&[], &[]);
    rig.attach(BOOT, 10);
    assert_eq!((rig.core.orphans().count(), rig.alarms.len()), (3, 3));
    assert_eq!(rig.core.report(remeet::recovery::Trigger::Restart).orphans, 9);
}

#[test]
fn a_command_on_a_leg_that_never_starts_is_answered_by_its_deadline() {
    let mut rig = Rig::new(Settings::default(), BOOT);
    rig.inventory(BOOT, 10, Vec::new());
    rig.look_up(&[starting()], &[]);
    rig.attach(BOOT, 10);
    rig.command(1, leg(1));
    rig.instance();
    assert_eq!(rig.answers.len(), 0);
    rig.after(Settings::default().waiting_deadline - Duration::from_millis(1));
    assert_eq!(rig.answers.len(), 0);
    rig.after(Duration::from_millis(1));
    assert_eq!(rig.retried(), [1]);
}

/// Creates leg `number` as command `number`.
fn create(rig: &mut Rig, number: u8) {
    let create = Create {
        meeting: leg(number).meeting,
        server: HERE,
        number: Number::cut("1"),
        title: Text::cut("one"),
        creator: Number::default(),
        creator_name: Text::default(),
    };
    rig.send(u64::from(number), leg(number), ClientOp::Create(create));
}

#[test]
fn rule_17_meetings_are_bounded_and_one_that_ends_makes_room() {
    let mut rig = Rig::new(Settings { legs_max: 2, ..Settings::default() }, BOOT);
    create(&mut rig, 1);
    rig.instance();
    create(&mut rig, 2);
    create(&mut rig, 3);
    let refused = rig.answers.pop().expect("at once");
    assert_eq!((refused.number, refused.code), (3, ErrorCode::TOO_MANY));
    assert_eq!(rig.persists.len(), 2, "nothing is stored of it");
    rig.stored();
    create(&mut rig, 2);
    let codes = |rig: &Rig| rig.answers.iter().map(|answer| (answer.number, answer.code)).collect::<Vec<_>>();
    assert_eq!(codes(&rig), [(1, ErrorCode::OK), (2, ErrorCode::OK), (2, ErrorCode::OK)], "a repeat is no other one");
    rig.send(4, leg(1), ClientOp::End);
    rig.stored();
    create(&mut rig, 3);
    rig.stored();
    assert_eq!(codes(&rig)[3..], [(4, ErrorCode::OK), (3, ErrorCode::OK)], "the same command, sent again");
}

const PULLED: Mark = Mark { revision: 5, count: 1, digest: Digest(7) };

/// Takes over legs 1 to 6, of which the server has content that is not stored: stores that, and nothing pulled.
fn take_over_six(rig: &mut Rig) {
    let live = |number: u8| InventoryEntry {
        mark: PULLED,
        token: TOKEN,
        ..entry(number, 100 + u64::from(number), LegState::Live, EndCause::None)
    };
    rig.inventory(BOOT, 10, (1..=6).map(live).collect());
    let rows: Vec<StoredLeg> = (1..=6).map(|number| row(number, StoredState::InMeeting)).collect();
    rig.look_up(&rows, &[]);
    rig.attach(BOOT, 10);
    rig.grant(BOOT, PULLED);
    let pulled = |unit: &remeet::store::Unit| unit.writes.iter().any(|write| matches!(write, Write::Content(_)));
    let (kept, states): (Vec<_>, Vec<_>) =
        std::mem::take(&mut rig.persists).into_iter().partition(|(_, unit)| pulled(unit));
    rig.persists = states;
    rig.stored();
    rig.persists.extend(kept);
}

fn pulls(rig: &Rig) -> usize {
    rig.count(|request| matches!(request, Request::Pull { .. }))
}

/// The pull that was asked last is answered in one page.
fn answer_pull(rig: &mut Rig) {
    let ticket = rig.asked(|request| matches!(request, Request::Pull { .. }));
    let of = rig.asks.iter().find_map(|(asked, request, _)| match request {
        Request::Pull { leg, .. } if *asked == ticket => Some(*leg),
        _ => None,
    });
    let page = PulledPage { leg: of.expect("just found"), changes: Vec::new(), full: true, complete: Some(PULLED) };
    rig.hear(Heard::Pulled(ticket, Ok(page)));
}

fn two_unstored() -> Rig {
    let mut rig = Rig::new(Settings { pulls_in_flight: 1, pulls_unstored: 2, ..Settings::default() }, BOOT);
    take_over_six(&mut rig);
    assert_eq!(pulls(&rig), 1, "one is under way at a time");
    answer_pull(&mut rig);
    assert_eq!(pulls(&rig), 2, "the link does not wait for the store");
    answer_pull(&mut rig);
    rig
}

#[test]
fn rule_17_a_back_fill_stands_while_what_it_pulled_is_not_stored() {
    let mut rig = two_unstored();
    rig.after(Duration::from_secs(1));
    assert_eq!((pulls(&rig), rig.persists.len()), (2, 2), "the store is down: no other is pulled");
    let (id, _) = rig.persists.remove(0);
    rig.give(Input::Written(id, Outcome::Applied { version: 0 }));
    assert_eq!(pulls(&rig), 3, "one is stored, one is pulled");
    answer_pull(&mut rig);
    assert_eq!(pulls(&rig), 3);
    for expected in 4..=6 {
        rig.stored();
        assert_eq!(pulls(&rig), expected);
        answer_pull(&mut rig);
    }
}

#[test]
fn rule_17_what_was_pulled_over_a_lost_link_counts_until_it_is_written_or_lost() {
    let mut rig = two_unstored();
    rig.hear(Heard::Down { reason: "cut".to_owned() });
    rig.hear(Heard::Up { boot: BOOT, table_revision: 10 });
    take_over_six(&mut rig);
    assert_eq!((pulls(&rig), rig.persists.len()), (2, 2), "what the old link brought is not stored yet");
    // The store refuses them: their rows are not what memory thought.
    for (id, _) in std::mem::take(&mut rig.persists) {
        rig.give(Input::Written(id, Outcome::Lost { version: 9 }));
    }
    assert_eq!(pulls(&rig), 3, "the places are free");
}
