//! Checks the model: all parts to exhaustion, and each part's absence for its counterexample.

use remeet_model::{Bounds, Part, Recovery};
use stateright::{Checker, Model};
use std::time::Instant;

#[test]
#[ignore]
fn probe() {
    let v: Vec<u8> = std::env::var("B").unwrap().split(',').map(|x| x.parse().unwrap()).collect();
    let bounds = Bounds { terms: v[0], inventories: v[1], crashes: v[2], restarts: v[3], losses: v[4], unknown: v[5] };
    let began = Instant::now();
    let model = Recovery { bounds, without: None };
    let checker = model.checker().threads(2).timeout(std::time::Duration::from_secs(100)).spawn_dfs().join();
    println!("{bounds:?}: {} states, {} steps, depth {}, in {:.1} s", checker.unique_state_count(), checker.state_count(), checker.max_depth(), began.elapsed().as_secs_f64());
    for (name, path) in checker.discoveries() {
        let n = path.clone().into_actions().len();
        println!("{:?} {name} ({n})", checker.discovery_classification(name).to_string());
        if checker.discovery_classification(name).to_string() == "counterexample" { println!("{:?}", path.into_actions()); }
    }
    let _ = Part::Fencing;
}
