//! Checks the model: all parts to exhaustion, and each part's absence for its counterexample.

#![expect(clippy::disallowed_methods, reason = "tests tell how long the check took")]

use remeet_model::lease::Lease;
use remeet_model::{Bounds, Part, Recovery};
use stateright::{Checker, CheckerBuilder, Expectation, HasDiscoveries, Model};
use std::time::Instant;

fn checker(bounds: Bounds, without: Option<Part>) -> CheckerBuilder<Recovery> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Recovery { bounds, without }.checker().threads(threads)
}

fn report<M: Model>(what: &str, checker: &impl Checker<M>, began: Instant)
where
    M::State: std::hash::Hash + Clone + PartialEq,
    M::Action: Clone + PartialEq,
{
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    let (depth, seconds) = (checker.max_depth(), began.elapsed().as_secs_f64());
    println!("{what}: {states} states, {steps} steps, depth {depth}, in {seconds:.1} s");
}

#[test]
fn no_rule_is_broken_whatever_two_schedulers_and_a_server_do() {
    let began = Instant::now();
    let checker = checker(Bounds::SMALL, None).spawn_bfs().join();
    report("all parts, to exhaustion", &checker, began);
    checker.assert_properties();
}

#[test]
fn no_rule_is_broken_by_two_who_command_at_a_time_for_the_fences_hold_without_the_lease() {
    let began = Instant::now();
    let checker = checker(Bounds::NO_LEASE, None).spawn_bfs().join();
    report("two terms without a lease, to exhaustion", &checker, began);
    for property in checker.model().properties() {
        let name = property.name;
        let found = checker.discovery(name).map(|path| path.into_actions());
        if let Expectation::Always = property.expectation {
            assert!(found.is_none(), "{name}: {found:?}");
        }
    }
    // Here what is refused was sent, and is delivered late: in the other runs it is taken out when its token is fenced.
    for name in [
        "a stale command is refused",
        "a failover happens: the other scheduler commands the meeting",
        "an acknowledgement comes late, over a restart of the server",
        "an acknowledgement comes late, when the next term has begun",
    ] {
        checker.assert_any_discovery(name);
    }
}

const CLOSED: &str = "rule 8: no live meeting is closed";
const TWICE: &str = "rule 11: no meeting runs twice";

const LEASE: Lease = Lease { terms: 3, renewals: 2, crashes: 1, from_before: true };

#[test]
fn rule_5_a_holder_is_sure_of_its_lease_only_while_it_has_it() {
    let began = Instant::now();
    let checker = LEASE.checker().spawn_bfs().join();
    report("the lease, to exhaustion", &checker, began);
    checker.assert_properties();
    let checker = Lease { from_before: false, ..LEASE }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs();
    let checker = checker.join();
    report("the lease, counted from the answer", &checker, began);
    assert!(checker.discovery("rule 5: who is sure of its lease holds the term, and nobody can take it").is_some());
}

/// The properties one of which must be broken without the part.
fn broken(part: Part) -> &'static [&'static str] {
    match part {
        Part::TableRevision => &[CLOSED],
        // Closed while its start was under way: it runs afterwards, or did already.
        Part::UnansweredStart => &[CLOSED, TWICE],
        Part::Tombstones => &[TWICE],
        Part::ExecutedMemory => &["rule 11: no command is executed twice", TWICE],
        Part::CompareAndSet => &["rule 9: ended stays ended"],
        Part::SecondLookUp => &["rule 6: no meeting of ours is called an orphan"],
        Part::ReRead => &["rule 12: no meeting is ended after its end was refused"],
        Part::TermCheck => &["rule 4: no write of an older term stands"],
        Part::Fencing => &["rules 2, 3: no stale command is executed"],
    }
}

#[test]
fn without_any_one_of_the_parts_a_rule_is_broken() {
    for part in Part::NEEDED.into_iter().chain([Part::TermCheck, Part::Fencing]) {
        let began = Instant::now();
        let wanted = HasDiscoveries::AnyOf(broken(part).iter().copied().collect());
        // One thread, breadth first: the counterexample is one of the shortest, and the same in every run.
        let checker = checker(Bounds::SMALL, Some(part)).threads(1).finish_when(wanted).spawn_bfs().join();
        report(&format!("without {part:?}"), &checker, began);
        let found: Vec<_> = broken(part).iter().filter_map(|name| Some((name, checker.discovery(name)?))).collect();
        for (name, path) in &found {
            println!("  {name}: {:?}", path.clone().into_actions());
        }
        assert!(!found.is_empty(), "without {part:?} nothing is broken");
    }
}

/// `scripts/model DEPTH`
#[test]
#[ignore = "takes minutes: scripts/model"]
fn no_rule_is_broken_within_a_depth_by_more_terms() {
    let depth = std::env::var("REMEET_MODEL_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(30);
    let began = Instant::now();
    let checker = checker(Bounds::LARGE, None).target_max_depth(depth).spawn_bfs().join();
    report(&format!("four terms, to depth {depth}"), &checker, began);
    checker.assert_properties();
}
