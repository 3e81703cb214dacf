//! Goal: content is acknowledged, counted and resumed exactly: no event is acknowledged before what it told is
//! stored; a lost link leaves nothing behind that another life of the leg is measured by; what was pulled is
//! counted, if not now then in the next round. Method: the core driven by hand.

use crate::core_rig::Rig;
use crate::plan::{BOOT, HERE, OLD_BOOT, leg, row};
use remeet::model::{LegContent, StoredLeg, StoredState};
use remeet::recovery::report::MISSING_MAX;
use remeet::recovery::{
    CacheTask, Command, Input, Read, ReadResult, Rights, RoundReport, Settings, StoredDigest, Trigger, Waiter,
};
use remeet::session::{Heard, PersistId, Request};
use remeet::store::{Instance, Outcome};
use remeet_protocol::message::{ClientCommand, ClientOp, EndCause, Event, MeetingState};
use remeet_protocol::record::{
    Business, BusinessState, Decode, DisplayMode, EntryRow, LeaveReason, Mark, MediaCodec, Record, RecordState,
    Resolution, TerminalRow,
};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{BootId, Change, Digest, Handle, RecordKey};

fn mark(revision: u64) -> Mark {
    Mark { revision, count: 1, digest: Digest(u128::from(revision)) }
}

fn stored(revision: u64) -> StoredLeg {
    StoredLeg { mark: mark(revision), ..row(1, StoredState::InMeeting) }
}

fn entry(name: &str) -> Record {
    Record::Entry(EntryRow { terminal: Text::cut("1"), key: Text::cut(name), value: Blob::new(vec![1]).unwrap() })
}

fn present(name: &str, revision: u64) -> Change {
    Change { revision, state: RecordState::Present(entry(name)) }
}

fn removed(name: &str, revision: u64) -> Change {
    let RecordKey::Entry(terminal, key) = entry(name).key() else { unreachable!("an entry") };
    Change { revision, state: RecordState::Removed(RecordKey::Entry(terminal, key)) }
}

/// An event of the leg: one change, from the revision before to `revision`.
fn event(number: u64, previous: u64, to: Mark, change: Change) -> Heard {
    Heard::Event(Event {
        number,
        leg: leg(1),
        handle: Handle(101),
        previous,
        mark: to,
        ended: EndCause::None,
        changes: vec![change],
    })
}

fn counts(to: Mark) -> StoredDigest {
    StoredDigest {
        leg: leg(1),
        mark: to,
        rows: to,
        terminals: 1,
        known: [1; 3],
        information: true,
        lacking: Vec::new(),
        lacking_total: 0,
    }
}

fn up(boot: BootId) -> Rig {
    Rig::new(Settings::default(), boot)
}

#[test]
fn an_event_below_a_mark_that_is_being_stored_is_acknowledged_with_it() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(3), mark(5));
    rig.pulled(leg(1), vec![present("a", 4), present("b", 5)], false, mark(5));
    rig.hear(event(1, 3, mark(4), present("a", 4)));
    assert_eq!(rig.acknowledged, [0; 0], "the pull that told it is not stored yet");
    rig.stored();
    assert_eq!(rig.acknowledged, [1]);
    rig.hear(event(2, 4, mark(5), present("b", 5)));
    assert_eq!(rig.acknowledged, [1, 2], "what is stored is acknowledged at once");
}

#[test]
fn an_event_whose_mark_was_lost_is_acknowledged_once_a_round_has_compared_everything() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(3), mark(5));
    rig.pulled(leg(1), vec![present("a", 4), present("b", 5)], false, mark(5));
    rig.hear(event(1, 3, mark(4), present("a", 4)));
    for (id, _) in std::mem::take(&mut rig.persists) {
        rig.give(Input::Written(id, Outcome::Lost { version: 4 }));
    }
    rig.look_up(&[StoredLeg { version: 4, epoch: crate::core_rig::TOKEN.epoch, ..stored(3) }], &[]);
    assert_eq!(rig.acknowledged, [0; 0], "its row is read again, and another round is due");
    rig.take_over(BOOT, &StoredLeg { version: 4, ..stored(3) }, mark(5));
    rig.pulled(leg(1), vec![present("a", 4), present("b", 5)], false, mark(5));
    assert_eq!(rig.acknowledged, [0; 0]);
    rig.stored();
    rig.cached(leg(1));
    rig.counted(Ok(counts(mark(5))));
    rig.cached(leg(1));
    assert_eq!(rig.acknowledged, [1], "{:?}", rig.core.server_views());
}

#[test]
fn a_lost_link_leaves_no_steps_behind_that_a_later_mark_jumps_over() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(5), mark(5));
    rig.hear(event(1, 7, mark(8), present("h", 8)));
    rig.stored();
    rig.hear(Heard::Down { reason: "cut".to_owned() });
    rig.hear(Heard::Up { boot: BOOT, table_revision: 10 });
    // The server came back without its last changes, and made others since.
    rig.take_over(BOOT, &stored(5), mark(5));
    let other = Mark { digest: Digest(77), ..mark(7) };
    rig.hear(event(2, 5, other, present("g", 7)));
    assert_eq!(rig.contents().last().unwrap().mark, Some(other), "not the step of the old link");
}

#[test]
fn a_lost_link_leaves_no_removals_behind_that_hide_another_lifes_records() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(3), mark(5));
    rig.hear(event(1, 5, mark(8), removed("a", 8)));
    rig.stored();
    rig.hear(Heard::Down { reason: "the server restarted".to_owned() });
    rig.hear(Heard::Up { boot: OLD_BOOT, table_revision: 10 });
    rig.take_over(OLD_BOOT, &stored(3), mark(2));
    rig.pulled(leg(1), vec![present("a", 2)], true, mark(2));
    assert_eq!(rig.contents().last().unwrap().changes, [present("a", 2)], "its revisions are another life's");
}

#[test]
fn rows_that_could_not_be_counted_are_counted_in_the_next_round_though_the_mark_is_equal() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(3), mark(5));
    rig.pulled(leg(1), vec![present("a", 5)], false, mark(5));
    rig.stored();
    rig.counted(Err("the store is away".to_owned()));
    rig.cached(leg(1));
    let pending = rig.core.pending();
    assert_eq!(pending, [(HERE, leg(1), "not verified".to_owned())]);
    let reads = rig.reads.len();
    rig.after(Settings::default().round_retry);
    let live = crate::plan::entry(1, 101, remeet_protocol::message::LegState::Live, EndCause::None);
    rig.inventory(BOOT, 10, vec![remeet_protocol::message::InventoryEntry { mark: mark(5), ..live }]);
    let counts_again = rig.reads[reads..].iter().any(|(_, read)| matches!(read, remeet::recovery::Read::Digests(_)));
    assert!(counts_again, "an equal mark does not vouch for rows that nobody counted");
    rig.counted(Ok(counts(mark(5))));
    rig.cached(leg(1));
    assert_eq!(rig.core.pending(), [], "{:?}", rig.core.server_views());
    let report = rig.core.report(Trigger::Reconcile);
    assert_eq!((report.contents, report.read_back, report.missing_total), (1, 1, 0));
}

fn business() -> Business {
    let (state, resolution) = (BusinessState::InMeeting, Resolution::Full);
    Business { state, since_ms: 1, sends_main: true, sends_auxiliary: false, resolution }
}

fn terminal(number: &str, known: [bool; 3]) -> Change {
    let decode = Decode { display_mode: DisplayMode::Single, output: Text::cut("1"), codec: MediaCodec::H264 };
    let row = TerminalRow {
        number: Text::cut(number),
        home_domain: remeet_protocol::DomainId(1),
        name: Text::default(),
        online: true,
        in_meeting: true,
        joined_at_ms: 1,
        left_at_ms: 0,
        left_because: LeaveReason::None,
        business: known[0].then(business),
        decode: known[1].then_some(decode),
        extra_version: known[2].then_some(1),
    };
    Change { revision: 2, state: RecordState::Present(Record::Terminal(row)) }
}

#[test]
fn rule_14_what_is_unknown_or_missing_is_named_and_counted() {
    let content = LegContent {
        leg: leg(1),
        place: None,
        mark: mark(2),
        // No leg row, and of four terminals one is known.
        changes: vec![
            terminal("1", [true; 3]),
            terminal("2", [true, false, true]),
            terminal("3", [false; 3]),
            terminal("4", [true, true, false]),
        ],
    };
    let counted = StoredDigest::count(&content);
    assert_eq!((counted.terminals, counted.known, counted.information), (4, [3, 2, 2], false));
    let mut rig = up(BOOT);
    let server_has = counted.rows;
    rig.take_over(BOOT, &stored(1), server_has);
    rig.no_stamps();
    rig.pulled(leg(1), content.changes, false, server_has);
    rig.stored();
    rig.cached(leg(1));
    rig.counted(Ok(StoredDigest { mark: server_has, ..counted }));
    let report = rig.core.report(Trigger::Restart);
    assert_eq!((report.contents, report.informed, report.terminals, report.known), (1, 0, 4, [3, 2, 2]));
    let name = leg(1);
    let expected = [
        format!("{name}: no meeting information"),
        format!("{name} terminal 2: decode state unknown"),
        format!("{name} terminal 3: business and decode state and extra information unknown"),
        format!("{name} terminal 4: extra information unknown"),
    ];
    assert_eq!((report.missing.as_slice(), report.missing_total), (expected.as_slice(), 4));
}

#[test]
fn rule_17_names_of_what_is_missing_are_bounded_and_all_are_counted() {
    let lacks = |count: u32| {
        let changes = (0..count).map(|number| terminal(&number.to_string(), [false; 3])).collect();
        StoredDigest::count(&LegContent { leg: leg(1), place: None, mark: mark(2), changes })
    };
    let digest = lacks(100);
    assert_eq!((digest.lacking.len(), digest.lacking_total), (8, 100));
    let mut sum = RoundReport::default();
    for _ in 0..9 {
        let mut report = RoundReport::default();
        report.count_content(&digest);
        sum.add(&report);
    }
    assert_eq!((sum.missing.len(), sum.missing_total), (MISSING_MAX, 909));
}

#[test]
fn rows_that_were_pulled_before_the_link_was_lost_are_counted_after_it() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(3), mark(5));
    rig.pulled(leg(1), vec![present("a", 5)], false, mark(5));
    rig.hear(Heard::Down { reason: "cut".to_owned() });
    rig.stored();
    rig.hear(Heard::Up { boot: BOOT, table_revision: 10 });
    let reads = rig.reads.len();
    rig.take_over(BOOT, &stored(3), mark(5));
    assert!(rig.reads[reads..].iter().any(|(_, read)| matches!(read, remeet::recovery::Read::Digests(_))));
    assert_eq!(rig.count(|request| matches!(request, Request::Pull { .. })), 1, "nothing is transferred again");
}

#[test]
fn rule_17_steps_beyond_a_gap_are_bounded_and_a_pull_closes_it() {
    let mut rig = Rig::new(Settings { gap_marks: 2, ..Settings::default() }, BOOT);
    rig.take_over(BOOT, &stored(5), mark(5));
    rig.no_stamps();
    for number in 1..=9 {
        let revision = 10 + number;
        rig.hear(event(number, revision - 1, mark(revision), present("a", revision)));
    }
    rig.stored();
    assert_eq!(rig.acknowledged.last(), Some(&9), "rows beyond the gap are stored");
    assert_eq!(rig.count(|request| matches!(request, Request::Pull { .. })), 1, "one pull, however many events");
    // It reaches to where its server was when it began: the steps that were remembered lead on from there.
    rig.pulled(leg(1), vec![present("b", 10)], false, mark(10));
    let marks: Vec<_> = rig.contents().iter().map(|write| write.mark).collect();
    assert_eq!(marks, [Some(mark(12))], "two steps were remembered, not nine");
    rig.stored();
    // Rows above the mark show that the gap is open: once more since the mark.
    let rows = Mark { revision: 19, ..mark(12) };
    rig.counted(Ok(StoredDigest { rows, ..counts(mark(12)) }));
    rig.pulled(leg(1), vec![present("a", 19)], false, mark(19));
    assert_eq!(rig.contents().last().unwrap().mark, Some(mark(19)));
}

#[test]
fn rule_17_removals_during_a_pull_are_bounded() {
    let mut rig = Rig::new(Settings { gap_marks: 2, ..Settings::default() }, BOOT);
    rig.take_over(BOOT, &stored(3), mark(5));
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        rig.hear(event(number, 4 + number, mark(5 + number), removed(name, 5 + number)));
    }
    rig.stored();
    let pulled = vec![present("a", 4), present("b", 4), present("c", 5)];
    rig.pulled(leg(1), pulled, false, mark(5));
    let changes = rig.contents().last().unwrap().changes.clone();
    assert_eq!(changes, [present("c", 5)], "two are remembered; counting the rows finds the third");
}

#[test]
fn an_operator_is_told_once_of_a_condition_and_once_of_its_end() {
    let mut rig = up(BOOT);
    let orphan = crate::plan::entry(9, 109, remeet_protocol::message::LegState::Live, EndCause::None);
    for round in 0..4 {
        rig.inventory(BOOT, 10, vec![orphan.clone()]);
        rig.look_up(&[], &[]);
        if round == 0 {
            rig.attach(BOOT, 10);
        }
        assert_eq!(rig.alarms.len(), 1, "in round {round}");
        rig.give(Input::Reconcile(None));
    }
    assert_eq!(rig.alarms_over.len(), 0);
    rig.inventory(BOOT, 11, Vec::new());
    assert_eq!(rig.alarms_over, rig.alarms, "it is gone: the condition is over");
    // It is there again: that is new.
    rig.give(Input::Reconcile(None));
    rig.inventory(BOOT, 12, vec![orphan]);
    rig.look_up(&[], &[]);
    assert_eq!((rig.alarms.len(), rig.alarms_over.len()), (2, 1));
}

/// The leg is taken over, and its client commands its end: the intent is handed to the store.
fn ending() -> Rig {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(5), mark(5));
    let command = ClientCommand { instance: 1, number: 1, meeting: leg(1).meeting, op: ClientOp::End };
    let rights = Rights { control: true, operator: true };
    rig.give(Input::Command(Command { waiter: Waiter(1), rights, command }));
    let read = rig.reads.iter().rev().find(|(_, read)| matches!(read, Read::Instance(_))).expect("it is read").0;
    rig.give(Input::Read(read, Ok(ReadResult::Instance(Instance::default()))));
    rig
}

/// Found by the simulation (seed 66307): memory went back to a mark of before, and events brought back what had been removed
/// since; the cache, which had the later mark already, kept it.
#[test]
fn a_row_that_was_read_before_content_was_stored_does_not_take_the_mark_back() {
    let mut rig = ending();
    rig.hear(event(1, 5, mark(6), present("x", 6)));
    let [(intent, _), (content, _)] = std::mem::take(&mut rig.persists)[..] else { panic!("an intent and content") };
    rig.give(Input::Written(intent, Outcome::Lost { version: 9 }));
    rig.give(Input::Written(content, Outcome::Applied { version: 0 }));
    let epoch = crate::core_rig::TOKEN.epoch;
    rig.look_up(&[StoredLeg { version: 9, epoch, ..stored(5) }], &[]);
    rig.take_over(BOOT, &StoredLeg { version: 9, epoch, ..stored(6) }, mark(6));
    assert_eq!(rig.count(|request| matches!(request, Request::Pull { .. })), 0);
    let counts_it = matches!(rig.reads.last(), Some((_, Read::Digests(_))));
    assert!(counts_it, "or the database has lost what was stored: {:?}", rig.reads.last());
}

#[test]
fn an_end_is_cached_once_it_is_stored_for_a_cached_one_gives_way_to_nothing() {
    let mut rig = ending();
    let (end, _) = rig.persists.pop().expect("the intent is handed to the store");
    let mut cached = |number: u64, first: Option<(PersistId, Outcome)>| {
        rig.cache_tasks.clear();
        if let Some((id, outcome)) = first {
            rig.give(Input::Written(id, outcome));
        }
        let revision = number + 5;
        rig.hear(event(number, revision - 1, mark(revision), present("x", revision)));
        rig.stored();
        let states = rig.cache_tasks.iter().filter_map(|task| match task {
            CacheTask::Write(write) => Some(write.head.state),
            CacheTask::Refill(head) => Some(head.state),
            _ => None,
        });
        states.collect::<Vec<_>>()
    };
    assert_eq!(cached(1, None), [MeetingState::InMeeting], "its intent is on its way");
    assert_eq!(cached(2, Some((end, Outcome::Lost { version: 9 }))), [MeetingState::InMeeting], "it was lost");
}

#[test]
fn an_end_that_is_stored_is_cached_with_what_comes_before_the_leg_has_ended() {
    let mut rig = ending();
    rig.stored();
    rig.cache_tasks.clear();
    rig.hear(event(1, 5, mark(6), present("x", 6)));
    rig.stored();
    let states = rig.cache_tasks.iter().filter_map(|task| match task {
        CacheTask::Write(write) => Some(write.head.state),
        _ => None,
    });
    assert_eq!(states.collect::<Vec<_>>(), [MeetingState::Ending]);
}

/// Found by the simulation (seed 3840): a term that was to pull it whole, as a leg that had moved, ended before that.
#[test]
fn a_leg_that_an_earlier_term_took_over_and_did_not_pull_keeps_no_mark_until_all_of_it_is_pulled() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(0), mark(5));
    rig.hear(event(1, 0, mark(1), present("a", 1)));
    assert_eq!(rig.contents().last().unwrap().mark, None, "what is left of its former life may stand beside it");
    let whole = |request: &Request| matches!(request, Request::Pull { since: 0, .. });
    assert_eq!(rig.count(whole), 1);
    rig.pulled(leg(1), vec![present("a", 1), present("b", 5)], true, mark(5));
    let last = rig.contents().last().cloned().unwrap();
    assert_eq!((last.mark, last.full), (Some(mark(5)), true));
}

/// The database failed over, and had lost what it stored last: the mark of the pull follows on nothing.
#[test]
fn rows_that_the_database_has_lost_are_pulled_from_the_ground() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(5), mark(8));
    rig.pulled(leg(1), vec![present("b", 8)], false, mark(8));
    assert_eq!(rig.contents().last().map(|write| (write.base, write.mark)), Some((5, Some(mark(8)))));
    rig.stored();
    // The stored mark is below the one that was stored: its rows may add up to it all the same.
    rig.counted(Ok(counts(mark(3))));
    let ticket = rig.asked(|request| matches!(request, Request::Pull { since: 0, .. }));
    assert_eq!(rig.asks.last().map(|(asked, ..)| *asked), Some(ticket), "everything is pulled");
    rig.pulled(leg(1), vec![present("a", 4), present("b", 8)], true, mark(8));
    assert_eq!(rig.contents().last().map(|write| (write.base, write.full)), Some((0, true)));
    // It has lost that, too: what adds up is not what was pulled, and no reason to give up.
    rig.stored();
    rig.counted(Ok(counts(mark(3))));
    assert_eq!(rig.count(|request| matches!(request, Request::Pull { since: 0, .. })), 2);
    for _ in 0..3 {
        rig.pulled(leg(1), vec![present("a", 4), present("b", 8)], true, mark(8));
        rig.stored();
        rig.counted(Ok(counts(mark(3))));
    }
    assert_eq!(rig.core.pending(), []);
    rig.pulled(leg(1), vec![present("a", 4), present("b", 8)], true, mark(8));
    rig.stored();
    rig.counted(Ok(counts(mark(3))));
    let pending = rig.core.pending();
    assert_eq!(
        pending,
        [(
            HERE,
            leg(1),
            "quarantined: it did not settle in 5 pulls: the stored mark is at revision 3, below what was stored"
                .to_owned()
        )]
    );
}

/// The first mark of a leg was never known to be stored: an event carried it on before the pull was written.
#[test]
fn rows_whose_first_mark_is_gone_are_pulled_from_the_ground() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(0), mark(5));
    rig.pulled(leg(1), vec![present("a", 5)], true, mark(5));
    rig.hear(event(1, 5, mark(6), present("b", 6)));
    let (pull, _) = rig.persists.remove(0);
    rig.give(Input::Written(pull, Outcome::Applied { version: 0 }));
    let whole = |request: &Request| matches!(request, Request::Pull { since: 0, .. });
    let asked = rig.count(whole);
    let nothing = Mark::default();
    rig.counted(Ok(counts(nothing)));
    assert_eq!(rig.count(whole), asked + 1, "nothing adds up to a mark at nothing");
}

/// The database failed over, and does not know the leg any more.
#[test]
fn a_pulled_leg_that_is_not_stored_any_more_keeps_no_round_waiting() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(3), mark(5));
    rig.pulled(leg(1), vec![present("a", 5)], false, mark(5));
    rig.stored();
    let read = rig.reads.iter().rev().find(|(_, read)| matches!(read, Read::Digests(_))).expect("rows are counted").0;
    rig.give(Input::Read(read, Ok(ReadResult::Digests(Vec::new()))));
    rig.cached(leg(1));
    assert_eq!(rig.core.pending(), [(HERE, leg(1), "unreadable row".to_owned())]);
    assert_eq!(rig.core.server_views()[0].round, None, "the round has ended");
    assert_eq!(rig.alarms.len(), 1);
    rig.after(Settings::default().round_retry_max);
    assert_eq!(rig.count(|request| *request == Request::Inventory), 1, "only an operator can mend it");
}

#[test]
fn rows_that_were_read_before_they_were_pulled_anew_do_not_count_for_it() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(3), mark(5));
    rig.pulled(leg(1), vec![present("a", 5)], false, mark(5));
    rig.stored();
    let before = rig.reads.last().expect("rows are counted").0;
    rig.hear(Heard::Down { reason: "cut".to_owned() });
    rig.hear(Heard::Up { boot: BOOT, table_revision: 10 });
    rig.take_over(BOOT, &stored(5), mark(8));
    rig.pulled(leg(1), vec![present("b", 8)], false, mark(8));
    rig.stored();
    let report =
        |rig: &Rig| rig.core.report(Trigger::Restart).read_back + rig.core.report(Trigger::LinkRestored).read_back;
    rig.give(Input::Read(before, Ok(ReadResult::Digests(vec![counts(mark(5))]))));
    rig.cached(leg(1));
    assert_eq!(rig.count(|request| matches!(request, Request::Pull { since: 0, .. })), 0, "nothing is amiss");
    assert_eq!(report(&rig), 0, "and nothing is counted");
    rig.counted(Ok(counts(mark(8))));
    rig.cached(leg(1));
    assert_eq!(report(&rig), 1, "{:?}", rig.core.server_views());
}

/// Of two events during a whole pull the database has lost the first: what is stored then ends at the pull.
#[test]
fn the_steps_that_events_made_beyond_a_whole_pull_follow_on_all_of_them() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(5), Mark { digest: Digest(77), ..mark(5) });
    rig.hear(event(1, 5, mark(6), present("a", 6)));
    rig.hear(event(2, 6, mark(7), present("b", 7)));
    rig.stored();
    rig.pulled(leg(1), vec![present("c", 5)], true, Mark { digest: Digest(77), ..mark(5) });
    let steps: Vec<_> = rig.contents().iter().map(|write| (write.full, write.base, write.mark.unwrap())).collect();
    assert_eq!(steps, [(true, 0, Mark { digest: Digest(77), ..mark(5) }), (false, 7, mark(7))]);
}

#[test]
fn an_event_s_mark_follows_on_the_mark_before_it() {
    let mut rig = up(BOOT);
    rig.take_over(BOOT, &stored(5), mark(5));
    rig.hear(event(1, 5, mark(6), present("a", 6)));
    rig.hear(event(2, 6, mark(7), present("b", 7)));
    let steps: Vec<_> = rig.contents().iter().map(|write| (write.base, write.mark)).collect();
    assert_eq!(steps, [(5, Some(mark(6))), (6, Some(mark(7)))]);
}
