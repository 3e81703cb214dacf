//! Goal: rule 17 in the core: every queue of commands, intents and orphans has its bound, and what goes beyond it
//! is answered `retry` at once. Method: the core driven by hand with small bounds.

use crate::core_rig::Rig;
use crate::plan::{BOOT, entry, leg, row};
use remeet::model::{StoredLeg, StoredState};
use remeet::recovery::{Command, Input, ReadResult, Rights, Settings, Waiter};
use remeet::session::Request;
use remeet::store::{Instance, LookUp};
use remeet_protocol::message::{ClientCommand, ClientOp, EndCause, LegState, SetExtra};
use remeet_protocol::record::Mark;
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{ErrorCode, LegId};
use std::time::Duration;

impl Rig {
    /// Client 1 sends a command for a leg.
    fn command(&mut self, number: u64, leg: LegId) {
        let value = Some(Blob::new(vec![1]).unwrap());
        let op = ClientOp::SetExtra(SetExtra { number: Text::cut("1"), key: Text::cut("k"), value });
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
