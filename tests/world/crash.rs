//! The scheduler is killed at every step of an ordinary recovery, and the end is the same; whether or not what it gave to
//! the store last is stored.

use super::clients::{add, create, tell};
use super::options::{DeadCommits, Options, seed};
use super::trace::explained;
use super::*;
use remeet::model::StoredState;
use remeet::simulator::core::script::Kind;
use remeet_protocol::message::{ClientOp, EndCause};

/// What must be the same whether or not the scheduler was killed on the way: states, causes, and who is
/// on the rosters. Contents are compared with the servers' truth already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    legs: BTreeMap<LegId, (StoredState, EndCause, u64, Vec<String>)>,
    answers: BTreeMap<u64, ErrorCode>,
}

impl World {
    pub(super) fn end(&self) -> End {
        let roster = |leg: &LegId| {
            let names = self.store.legs[leg].records.keys().filter_map(|key| match key {
                remeet_protocol::RecordKey::Terminal(number) => Some(number.to_string()),
                remeet_protocol::RecordKey::Entry(number, key) => Some(format!("{number} {key}")),
                _ => None,
            });
            names.collect::<Vec<_>>()
        };
        let row = |leg: &LegId| {
            let row = &self.store.legs[leg].row;
            let roster = if row.state == StoredState::Ended { Vec::new() } else { roster(leg) };
            (row.state, row.cause, row.generation, roster)
        };
        let answers = self.clients[&1].answered.iter().map(|(number, answer)| (*number, answer.code));
        End { legs: self.store.legs.keys().map(|leg| (*leg, row(leg))).collect(), answers: answers.collect() }
    }
}

/// A moment to be killed at: after an output; with the packets of that step, or the first of them, or none; and with all,
/// none or some of the commits under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct CrashPoint {
    pub(super) output: u64,
    pub(super) sends: usize,
    pub(super) commits: DeadCommits,
}

/// Every one of them.
pub(super) fn crash_points(outputs: u64) -> impl Iterator<Item = CrashPoint> {
    let commits = [DeadCommits::Stand, DeadCommits::Lost, DeadCommits::EveryOther];
    let fates = [usize::MAX, 1, 0].into_iter().flat_map(move |sends| commits.map(|commits| (sends, commits)));
    let fates: Vec<_> = fates.collect();
    (1..=outputs).flat_map(move |output| {
        fates.clone().into_iter().map(move |(sends, commits)| CrashPoint { output, sends, commits })
    })
}

impl World {
    /// Kills the scheduler there, `beyond` the outputs that it has made.
    pub(super) fn kill_there(&mut self, point: CrashPoint, beyond: u64) {
        self.options.dead_commits = point.commits;
        self.kill_at(beyond + point.output, point.sends);
    }
}

/// A world with a meeting of each kind, whose scheduler is dead, and will start again.
fn before_recovery(seed: u64) -> World {
    let mut world = World::new(seed, Options { servers: 1, ..Options::default() });
    let server = ServerId(1);
    let legs = world.start_meetings(server, 5, 2);
    let made = world.new_meeting();
    world.done(1, made, create(made, server));
    world.quiet();
    // Commands whose fate the crash leaves open: a start, an end, a change.
    let starting = world.new_meeting();
    world.done(1, starting, create(starting, server));
    world.ask(1, starting, ClientOp::Start);
    world.ask(1, legs[0].meeting, ClientOp::End);
    world.ask(1, legs[1].meeting, add(7));
    world.run_for(Duration::from_millis(9));
    world.crash(0);
    world.run_for(Duration::from_millis(20));
    // Meanwhile: one changes in every way, one ends, one is somebody else's, two stay as they are.
    world.live_on(server, Some(&legs[2..3]), &Kind::ALL);
    world.at_server(server, |core, _| core.end_leg(legs[3])).unwrap();
    world.at_server(server, |core, now_ms| core.create_foreign(now_ms, None, 1)).unwrap();
    world.later(Duration::from_millis(1), |world| world.boot(0));
    world
}

#[test]
fn killed_after_any_output_of_a_recovery_the_end_is_that_of_a_run_without_a_crash() {
    let seed = seed(3);
    let mut undisturbed = before_recovery(seed);
    undisturbed.quiet();
    let expected = undisturbed.end();
    let outputs = undisturbed.process().unwrap().outputs;
    assert!(outputs > 30, "an ordinary recovery has many steps: {outputs}");
    for point in crash_points(outputs) {
        explained(|| {
            let mut world = before_recovery(seed);
            world.kill_there(point, 0);
            world.run_until("the kill", |world| world.life > 1 && !world.kill_is_due());
            world.later(Duration::from_millis(30), |world| world.boot(0));
            world.quiet();
            assert_eq!(world.end(), expected, "rule 18: killed at {point:?} of {outputs} outputs");
        });
    }
}

#[test]
fn two_restarts_in_a_row_and_one_within_a_recovery_lose_nothing() {
    let mut world = World::new(seed(4), Options::default());
    let legs = world.start_meetings(ServerId(1), 6, 3);
    world.start_meetings(ServerId(2), 3, 1);
    world.quiet();
    for pause in [1, 4, 8, 15, 40, 400] {
        world.restart(Duration::from_millis(5));
        world.live_on(ServerId(1), Some(&legs[..2]), &[]);
        world.run_for(Duration::from_millis(pause));
    }
    world.restart(Duration::from_millis(5));
    world.quiet();
    let report = world.report(remeet::recovery::Trigger::Restart);
    assert_eq!((report.live, report.recovered), (9, 9));
}

#[test]
fn rule_11_a_command_repeated_over_a_crash_has_one_effect_and_the_same_answer() {
    for pause in 0..40 {
        let mut world = World::new(seed(500 + pause), Options::default());
        let legs = world.start_meetings(ServerId(1), 1, 1);
        world.quiet();
        let asked = [
            world.ask(1, legs[0].meeting, tell(0, "seat", "7")),
            world.ask(1, legs[0].meeting, add(1)),
            world.ask(1, legs[0].meeting, tell(1, "seat", "8")),
        ];
        world.run_for(Duration::from_millis(pause));
        world.restart(Duration::from_millis(50));
        world.all_done(1, &asked);
        world.quiet();
        // Asked once more, long after: the kept answers, and no further effect.
        let intents = world.store.made.len();
        for number in asked {
            world.client_sends(1, number);
        }
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.store.made.len(), intents);
        world.quiet();
    }
}
