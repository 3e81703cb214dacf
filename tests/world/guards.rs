//! The checks can fail: each guard is switched off, and disorder shows it within so many seeds.

use super::faults::disorder;
use remeet::guard::{Guard, weaken};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Guards whose lack disorder shows too seldom for every run of the tests: `scripts/weaken` looks for them.
const STUBBORN: [Guard; 3] = [Guard::EndedStaysEnded, Guard::EventsInOrder, Guard::TermOfIntents];
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

/// The rules that are broken without it, by one of which its lack is to be told. That not everything was recovered in time
/// (rule 18) is no notice.
fn rules(guard: Guard) -> &'static [u32] {
    match guard {
        Guard::ServerToken => &[2, 3],
        Guard::TakeoverProof => &[3],
        Guard::CachedEpoch
        | Guard::TermOfStates
        | Guard::TermOfContents
        | Guard::TermOfIntents
        | Guard::TermOfAnswers => &[4],
        // Of two writes that follow from one row the later stands, too: after an unknown commit, or after an end.
        Guard::StoredVersion => &[4, 9, 12],
        Guard::SelfStop => &[5],
        // A command gets a lost one's answer: an end that was never carried out.
        Guard::LostIntents => &[8, 11],
        // Closed though it lives by another server's word, or by its own of an earlier leg of that name.
        Guard::OwnServersEvents => &[8, 9, 16],
        Guard::WholeInventory | Guard::UnansweredStart | Guard::TableRevision => &[8],
        // What has ended appears again; a meeting runs twice.
        Guard::Tombstones => &[8, 9],
        // The same; or, since a server recognises the start, what is brought back is told as live and its end is not.
        Guard::EndedStaysEnded => &[8, 9, 15],
        Guard::AcknowledgedAfterStored => &[9],
        Guard::FirstPassFromDatabase | Guard::KeyGeneration => &[10],
        Guard::ClientCommandIds => &[11],
        Guard::ExecutedMemory => &[9, 11],
        Guard::StoredBeforeSent | Guard::RaisedVersion => &[12],
        Guard::RecordRevision => &[13],
        // What was removed is told again; a meeting is told to have ended, and goes on.
        Guard::EventsInOrder | Guard::EndTellsLast => &[15],
    }
}

/// A check has named one of these rules: "rule 8: …", "rules 2 and 3: …". Any other panic is no notice.
fn names(said: &str, rules: &[u32]) -> bool {
    let Some(at) = said.find("rule") else { return false };
    let named = said[at..].split(':').next().unwrap_or_default();
    named
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .any(|rule| rules.contains(&rule))
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
                    let noticed = (0..seeds).find_map(|seed| {
                        Some((seed, shows(Some(*guard), seed).filter(|said| names(said, rules(*guard)))?))
                    });
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

#[test]
fn a_guard_s_lack_is_told_by_its_own_rule() {
    assert!(names("assertion `left == right` failed: rule 11: ran as [...]", &[11]));
    assert!(names("rules 2 and 3: server 1 has executed", &[3]) && names("rules 4 and 9: Transition", &[9]));
    assert!(!names("rule 18: not recovered in time: 8", &[8]) && !names("a panic without words", &[8]));
}
