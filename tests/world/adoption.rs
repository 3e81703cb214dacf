//! Adoption of an orphan, with and without its end, over crashes: one effect, one answer.

use super::clients::add;
use super::crash::crash_points;
use super::options::{Options, seed};
use super::trace::explained;
use super::*;
use remeet::model::StoredState;
use remeet_protocol::message::{AdoptOrphan, ClientOp, LegState};
use remeet_protocol::{Handle, MeetingId};

const SERVER: ServerId = ServerId(1);

/// A world at rest with one orphan.
fn with_orphan(seed: u64) -> (World, LegId, Handle) {
    let mut world = World::new(seed, Options { servers: 1, ..Options::default() });
    world.start_meetings(SERVER, 1, 1);
    let (leg, handle) = world.at_server(SERVER, |core, now_ms| core.create_foreign(now_ms, None, 1)).unwrap();
    world.input(Input::Reconcile(None));
    world.quiet();
    assert_eq!(world.core().orphans().collect::<Vec<_>>(), [(SERVER, handle, leg)]);
    (world, leg, handle)
}

fn adopt(leg: LegId, handle: Handle, end: bool) -> ClientOp {
    ClientOp::Adopt(AdoptOrphan { server: SERVER, handle, leg, end })
}

/// The command has its answer and its effect, once; and so it stays if it is repeated.
fn one_effect(world: &mut World, number: u64, end: bool, when: &str) {
    let answer = world.await_answer(1, number);
    assert_eq!(answer.code, ErrorCode::OK, "{when}: {}", answer.detail);
    world.quiet();
    let adopted = LegId { meeting: answer.meeting, leg: 0 };
    let of_orphans: Vec<_> =
        world.store.legs.values().filter(|kept| kept.row.title.as_str().starts_with("adopted")).collect();
    let stored: Vec<_> = of_orphans.iter().map(|kept| (kept.row.leg, kept.row.state)).collect();
    let state = if end { StoredState::Ended } else { StoredState::InMeeting };
    assert_eq!(stored, [(adopted, state)], "{when}");
    let live = world.live_legs(SERVER).iter().any(|leg| leg.leg == adopted);
    assert_eq!(live, !end, "{when}");
    assert_eq!(world.servers[&SERVER].core.stats().adoptions, 1, "{when}");
    assert_eq!(world.core().orphans().count(), 0, "{when}");
    let made = world.store.made.len();
    world.client_sends(1, number);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.store.made.len(), made, "{when}: a repeat makes no intent");
    assert_eq!(world.servers[&SERVER].core.stats().adoptions, 1, "{when}");
}

/// How many outputs an undisturbed adoption has.
fn outputs(seed: u64, end: bool) -> u64 {
    let (mut world, leg, handle) = with_orphan(seed);
    let before = world.process().unwrap().outputs;
    let number = world.ask(1, MeetingId::default(), adopt(leg, handle, end));
    world.await_answer(1, number);
    world.quiet();
    let outputs = world.process().unwrap().outputs - before;
    one_effect(&mut world, number, end, "undisturbed");
    outputs
}

#[test]
fn rule_11_an_adoption_killed_after_any_output_has_one_effect_and_one_answer() {
    let seed = seed(40);
    for end in [false, true] {
        for point in crash_points(outputs(seed, end)) {
            explained(|| {
                let (mut world, leg, handle) = with_orphan(seed);
                let number = world.ask(1, MeetingId::default(), adopt(leg, handle, end));
                let lived = world.process().unwrap().outputs;
                world.kill_there(point, lived);
                world.run_until("the kill", |world| !world.kill_is_due());
                world.later(Duration::from_millis(30), |world| world.boot(0));
                one_effect(&mut world, number, end, &format!("end {end}, killed at {point:?}"));
            });
        }
    }
}

#[test]
fn rule_11_an_adoption_killed_again_in_the_recovery_from_a_kill_has_one_effect_and_one_answer() {
    let seed = seed(41);
    for end in [false, true] {
        for output in (1..=outputs(seed, end)).step_by(2) {
            for again in (1..40).step_by(3) {
                explained(|| {
                    let (mut world, leg, handle) = with_orphan(seed);
                    let number = world.ask(1, MeetingId::default(), adopt(leg, handle, end));
                    let lived = world.process().unwrap().outputs;
                    world.kill_after(lived + output);
                    world.run_until("the kill", |world| !world.kill_is_due());
                    world.kill_after(again);
                    world.later(Duration::from_millis(30), |world| world.boot(0));
                    world.run_for(Duration::from_secs(2));
                    // A recovery may have fewer steps than that.
                    world.nodes[0].interrupt = None;
                    if world.process().is_none() {
                        world.boot(0);
                    }
                    one_effect(
                        &mut world,
                        number,
                        end,
                        &format!("end {end}, killed after {output}, then after {again}"),
                    );
                });
            }
        }
    }
}

#[test]
fn rule_12_an_adoption_whose_commits_are_of_unknown_outcome_has_one_effect_and_one_answer() {
    for seed in 42..82 {
        for end in [false, true] {
            println!("seed {seed}, end {end}");
            let (mut world, leg, handle) = with_orphan(seed);
            world.options.unknown_commits = 0.3;
            let number = world.ask(1, MeetingId::default(), adopt(leg, handle, end));
            world.await_answer(1, number);
            world.options.unknown_commits = 0.0;
            one_effect(&mut world, number, end, &format!("seed {seed}, end {end}"));
        }
    }
}

#[test]
fn an_adopted_meeting_takes_commands_whatever_numbers_its_former_scheduler_used() {
    let mut world = World::new(seed(43), Options { servers: 1, ..Options::default() });
    let legs = world.start_meetings(SERVER, 1, 5);
    world.quiet();
    // The database has lost it: ours becomes an orphan that has executed six intents.
    world.crash(0);
    world.run_for(Duration::from_millis(20));
    world.store.legs.remove(&legs[0]);
    world.store.made.clear();
    world.boot(0);
    world.quiet();
    let (_, handle, leg) = world.core().orphans().next().expect("it is an orphan now");
    let number = world.ask(1, MeetingId::default(), adopt(leg, handle, false));
    let meeting = world.await_answer(1, number).meeting;
    world.done(1, meeting, add(7));
    let number = world.ask(1, meeting, ClientOp::End);
    assert_eq!(world.await_answer(1, number).code, ErrorCode::OK);
    world.quiet();
    assert!(world.truth(SERVER).legs.iter().all(|leg| leg.state != LegState::Live));
}

#[test]
fn a_server_that_permits_no_adoption_says_so_and_the_orphan_stays() {
    for end in [false, true] {
        let (mut world, leg, handle) = with_orphan(seed(44));
        world.forbid_adoption(SERVER);
        let number = world.ask(1, MeetingId::default(), adopt(leg, handle, end));
        assert_eq!(world.await_answer(1, number).code, ErrorCode::NOT_ALLOWED, "end {end}");
        world.input(Input::Reconcile(None));
        world.quiet();
        assert_eq!(world.core().orphans().map(|(_, _, leg)| leg).collect::<Vec<_>>(), [leg], "nothing was ended");
    }
}
