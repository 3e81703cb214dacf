//! How many seeds are run, and what is said of them.

use super::faults::{COMMITS_MIN, FAULTS_MIN, Run, disorder};
use super::trace;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds of a run of the tests.
const SEEDS: u64 = 1_000;
/// The first of so many seeds run twice, and one at least.
const TWICE: usize = 100;
/// Failures after which no further seed is begun.
const FAILURES_MAX: usize = 5;

/// Seeds that failed once (docs/testing.md): what each does changes with the simulation, but it costs nothing to ask
/// again. What was wrong has a test of its own.
const ONCE_FAILED: &[u64] = &[
    0, 1, 2, 16, 22, 33, 43, 50, 75, 115, 335, 597, 634, 765, 775, 1059, 1169, 1539, 2567, 2881, 2906, 2966, 3840,
    3902, 3927, 4113, 4509, 4531, 6786, 9585, 10_343, 12_338, 16_009, 16_179, 16_517, 17_485, 17_500, 19_025, 20_309,
    21_635, 23_601, 24_501, 26_870, 27_249, 27_647, 29_641, 31_626, 31_903, 32_183, 32_261, 32_514, 34_823, 34_971,
    40_147, 40_666, 40_795, 43_759, 44_050, 46_065, 46_927, 49_521, 50_596, 52_023, 54_828, 55_099, 55_413, 58_511,
    58_689, 60_954, 62_869, 64_842, 65_287, 66_307, 68_402, 75_795, 78_892, 84_940, 96_974, 99_910, 4_102_891,
    4_107_599, 4_230_913,
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: write a whole number")))
}

/// What one seed came to; or what was wrong.
fn once(seed: u64, traced: bool) -> Result<Run, String> {
    trace::keep(traced);
    catch_unwind(AssertUnwindSafe(|| disorder(seed))).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
    })
}

/// The same; and how a failure came about.
fn run(seed: u64, twice: bool) -> Result<Run, String> {
    let first = once(seed, twice);
    let traced = trace::hash();
    if let (Ok(run), false) = (&first, twice) {
        return Ok(run.clone());
    }
    // Once more: to be the same, and to tell the way to a failure.
    let again = once(seed, true);
    if again != first || (twice && trace::hash() != traced) {
        return Err(format!(
            "seed {seed} ran in two ways: something depends on more than the seed\n{first:?}\n{again:?}"
        ));
    }
    first.map_err(|said| format!("{}\n{said}\nREMEET_SIM_SEED={seed} repeats it", trace::shown()))
}

/// Runs seeds on every core. Answers what each came to.
fn run_all(seeds: &[u64]) -> Vec<Run> {
    let (next, done, failures) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while failures.lock().unwrap().len() < FAILURES_MAX {
                    let place = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                    let Some(seed) = seeds.get(place) else { return };
                    if place > 0 && place % 10_000 == 0 {
                        eprintln!("{place} of {} seeds", seeds.len());
                    }
                    match run(*seed, place <= seeds.len() / TWICE) {
                        Ok(run) => done.lock().unwrap().push(run),
                        Err(said) => {
                            // At once: the last of a hundred thousand may take half an hour more.
                            eprintln!("seed {seed} failed");
                            failures.lock().unwrap().push(format!("seed {seed}: {said}"));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} seeds failed\n{}", failures.len(), failures.join("\n\n"));
    done.into_inner().unwrap()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long the seeds took is told to people")]
fn no_rule_is_broken_and_everything_is_recovered_whatever_befalls() {
    let seeds: Vec<u64> = match number("REMEET_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let base = number("REMEET_SIM_BASE").unwrap_or(0);
            (base..base + number("REMEET_SIM_SEEDS").unwrap_or(SEEDS)).collect()
        }
    };
    let began = Instant::now();
    let runs = run_all(&seeds);
    let took = began.elapsed().as_secs_f64();
    println!("{} seeds from {}, {took:.0} s, {:.1} a second", seeds.len(), seeds[0], seeds.len() as f64 / took);
    let told = |of: fn(&Run) -> u64, what: &str| {
        let mut each: Vec<u64> = runs.iter().map(of).collect();
        each.sort_unstable();
        let part = |part: usize| each[(each.len() - 1) * part / 100];
        println!("{what} a run: least {}, half of the runs up to {}, most {}", part(0), part(50), part(100));
        part(0)
    };
    let faults = told(|run| run.befallen, "faults, but for those of single packets and commits,");
    let commits = told(|run| run.commits, "batches committed meanwhile,");
    assert!(faults >= FAULTS_MIN && commits >= COMMITS_MIN, "a run had {faults} faults or {commits} commits only");
    let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (kind, count) in runs.iter().flat_map(|run| &run.faults) {
        let of_kind = kinds.entry(kind).or_default();
        *of_kind = (of_kind.0 + count, of_kind.1 + 1);
    }
    for (kind, (count, runs)) in kinds {
        println!("{count:>9} in {runs:>7} runs: {kind}");
    }
}

#[test]
fn seeds_that_failed_once_stay_mended() {
    run_all(ONCE_FAILED);
}
