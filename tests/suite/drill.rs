//! Goal: the real daemon survives being killed and stopped at random moments without a difference. Method:
//! `remeet drill` for a few cycles with fixed seeds; `scripts/crash-loop` runs it for hundreds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::playing::{Playing, number, verdict};
use crate::servers::{fresh_database, redis_url};
use std::process::Output;

/// Half of what an operator's drill has: a cycle takes about a second.
const SMALL: [&str; 4] = ["--servers", "2", "--meetings", "14"];

fn drill() -> Playing {
    Playing::new("drill", &SMALL)
}

fn told(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Exit code 0, and that something was done to be compared.
fn no_difference(output: &Output, cycles: u64) {
    let told = told(output);
    let verdict = verdict(output);
    assert!(output.status.success() && verdict["ok"] == true, "{told}");
    for nothing in ["differences", "stale_executed"] {
        assert_eq!(number(&verdict, nothing), 0, "{told}");
    }
    assert_eq!(number(&verdict, "cycles"), cycles, "{told}");
    for something in ["commands", "repeats", "meetings_recovered", "recoveries", "recovery_median_ms"] {
        assert!(number(&verdict, something) > 0, "{something}: {told}");
    }
}

#[test]
fn kills_at_every_kind_of_moment_leave_no_difference_on_real_servers() {
    let (Some(database), Some(redis)) = (fresh_database(), redis_url()) else { return };
    let output = drill().play(&[
        "--cycles",
        "5",
        "--seed",
        SEED_OF_ALL_MOMENTS,
        "--postgres",
        &database.url,
        "--redis",
        &redis,
        "--json",
    ]);
    no_difference(&output, 5);
    let strikes = &verdict(&output)["strikes"];
    for moment in ["quiet", "commands", "recovery", "second_recovery"] {
        assert!(number(strikes, moment) > 0, "{strikes}");
    }
}

#[test]
fn rules_2_and_3_stops_of_the_active_one_of_a_pair_execute_nothing_stale() {
    let (Some(database), Some(redis)) = (fresh_database(), redis_url()) else { return };
    let postgres = &database.url;
    let pause =
        ["--kind", "pause", "--cycles", "2", "--seed", "21", "--postgres", postgres, "--redis", &redis, "--json"];
    no_difference(&drill().play(&pause), 2);
}

#[test]
fn a_planted_difference_is_found_named_with_its_cycle_and_makes_the_exit_code_1() {
    let output = drill().play(&["--cycles", "2", "--seed", "22", "--plant-difference", "--json"]);
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let verdict = verdict(&output);
    assert_eq!((&verdict["ok"], number(&verdict, "differences"), number(&verdict, "cycles")), (&false.into(), 1, 2));
    for part in ["cycle 2, seed 22: 1 differences", "(planted)", "--seed 22 --first-cycle 2", "the scheduler starts"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// Its first five cycles kill in quiet, in commands, in a recovery and in the recovery of that.
const SEED_OF_ALL_MOMENTS: &str = "4";
