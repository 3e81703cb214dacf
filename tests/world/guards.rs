//! The checks can fail: each guard is switched off, and disorder shows it within so many seeds.

use super::faults::disorder;
use remeet::guard::{Guard, weaken};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Guards whose lack disorder shows too seldom for every run of the tests: `scripts/weaken` looks for them.
const STUBBORN: [Guard; 4] = [Guard::ServerToken, Guard::ExecutedMemory, Guard::EndedStaysEnded, Guard::EventsInOrder];
/// Seeds of a run of the tests; and of the script.
const SEEDS: u64 = 200;
const SEEDS_OF_STUBBORN: u64 = 10_000;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What disorder shows at this seed, with the guard off if one is named: the first line.
fn shows(guard: Option<Guard>, seed: u64) -> Option<String> {
    weaken(guard);
    QUIET.set(true);
    let shown = catch_unwind(AssertUnwindSafe(|| disorder(seed))).err().map(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
        said.lines().next().unwrap_or_default().chars().take(160).collect()
    });
    QUIET.set(false);
    weaken(None);
    shown
}

/// A check has said what was wrong; any other panic is no notice, nor is that not everything was recovered in time.
fn is_named(said: &str) -> bool {
    (said.contains("rule ") || said.contains("rules ")) && !said.contains("rule 18")
}

fn each_is_noticed(guards: &[Guard], seeds: u64) {
    // What is meant to panic says nothing.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            hook(info);
        }
    }));
    let (next, lines) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let unnoticed = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(guard) = guards.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let noticed = (0..seeds)
                        .find_map(|seed| Some((seed, shows(Some(*guard), seed).filter(|said| is_named(said))?)));
                    // The guard's lack was it, and nothing else.
                    let noticed = noticed.filter(|(seed, _)| shows(None, *seed).is_none());
                    let line = match noticed {
                        Some((seed, shown)) => format!("{guard:?}: seed {seed}: {shown}"),
                        None => {
                            unnoticed.fetch_add(1, Ordering::Relaxed);
                            format!("{guard:?}: NOT NOTICED in {seeds} seeds: {}", guard.text())
                        }
                    };
                    lines.lock().unwrap().push(line);
                }
            });
        }
    });
    let mut lines = lines.into_inner().unwrap();
    lines.sort();
    println!("{}", lines.join("\n"));
    assert_eq!(unnoticed.into_inner(), 0, "guards were switched off, and nothing noticed:\n{}", lines.join("\n"));
}

#[test]
fn each_guard_s_lack_is_noticed_within_200_seeds() {
    let guards: Vec<Guard> = Guard::ALL.into_iter().filter(|guard| !STUBBORN.contains(guard)).collect();
    assert!(guards.len() >= 15, "at least fifteen in every run");
    each_is_noticed(&guards, SEEDS);
}

#[test]
#[ignore = "minutes: scripts/weaken"]
fn each_stubborn_guard_s_lack_is_noticed_within_10_000_seeds() {
    each_is_noticed(&STUBBORN, SEEDS_OF_STUBBORN);
}
