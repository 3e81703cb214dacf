//! Ordinary life: meetings are created, started and commanded; what is stored equals the servers' truth.

use super::clients::{add, tell};
use super::options::{Options, seed};
use super::*;
use remeet::model::StoredState;
use remeet_protocol::message::{ClientOp, EndCause};

#[test]
fn meetings_run_and_what_is_stored_and_cached_equals_the_servers_truth() {
    let mut world = World::new(seed(1), Options::default());
    let legs = world.start_meetings(ServerId(1), 3, 4);
    world.start_meetings(ServerId(2), 2, 2);
    world.done(1, legs[0].meeting, tell(1, "seat", "12"));
    for _ in 0..5 {
        world.live_on(ServerId(1), None, &[]);
        world.run_for(Duration::from_millis(30));
    }
    world.quiet();
    assert_eq!(world.live_legs(ServerId(1)).len(), 3);
    let reads = &world.process().unwrap().reads;
    assert_eq!(reads.get("cached keys"), None, "a first pass looks into the database only");
}

#[test]
fn a_command_has_its_result_stored_and_a_refused_one_says_why() {
    let mut world = World::new(seed(2), Options::default());
    let legs = world.start_meetings(ServerId(1), 1, 1);
    let refused = world.ask(1, legs[0].meeting, tell(9, "seat", "1"));
    assert_eq!(world.await_answer(1, refused).code, ErrorCode::UNKNOWN_TERMINAL);
    let end = world.ask(1, legs[0].meeting, ClientOp::End);
    assert_eq!(world.await_answer(1, end).code, ErrorCode::OK);
    let late = world.ask(1, legs[0].meeting, add(3));
    assert_eq!(world.await_answer(1, late).code, ErrorCode::ENDED);
    world.quiet();
    let row = &world.store.legs[&legs[0]].row;
    assert_eq!((row.state, row.cause), (StoredState::Ended, EndCause::Operator), "this client has that right");
}
