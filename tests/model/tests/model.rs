//! Checks the model: all parts to exhaustion, and each part's absence for its counterexample.

use remeet_model::{Bounds, Part, Recovery};
use stateright::{Checker, Model};
use std::time::Instant;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn no_rule_is_broken_whatever_two_schedulers_and_a_server_do() {
    let began = Instant::now();
    let model = Recovery { bounds: Bounds::SMALL, without: None };
    let checker = model.checker().threads(threads()).spawn_dfs().join();
    println!(
        "{:?}: {} states, {} steps, depth {}, in {:.1} s",
        Bounds::SMALL,
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    checker.assert_properties();
}
