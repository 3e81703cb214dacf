//! `remeet bench` as a user runs it: small, every guard on, everything compared at its end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::playing::{Playing, number, verdict};
use crate::servers::{fresh_database, redis_url};
use serde_json::Value;
use std::process::Output;

/// A small network.
const SMALL: [&str; 6] = ["--servers", "2", "--meetings", "60", "--terminals", "3"];

fn bench() -> Playing {
    Playing::new("bench", &SMALL)
}

fn ran(output: &Output) -> Value {
    let told = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    verdict(output)
}

/// What every recovery must come to.
fn recovered(output: &Output, meetings: u64) -> Value {
    let verdict = ran(output);
    assert_eq!((number(&verdict, "meetings"), number(&verdict, "differences")), (meetings, 0), "{verdict}");
    assert!(number(&verdict, "in_control_ms") >= number(&verdict, "in_control_p99_ms"), "{verdict}");
    assert!(number(&verdict, "backfilled_ms") >= number(&verdict, "in_control_ms"), "{verdict}");
    for measured in ["in_control_p99_ms", "meetings_per_s", "floor_ms", "rss_mib", "rss_peak_mib"] {
        assert!(number(&verdict, measured) > 0, "{measured}: {verdict}");
    }
    assert!(verdict["ratio_to_floor"].as_f64().unwrap() > 0.0, "{verdict}");
    verdict
}

#[test]
fn a_recovery_is_measured_run_by_run_and_compared() {
    let output = bench().play(&["recovery", "--json", "--runs", "2", "--changed", "0.5"]);
    let verdict = recovered(&output, 60);
    assert!(number(&verdict, "changes") > 0 && number(&verdict, "rows_written") > 60 + number(&verdict, "changes"));
    let told = String::from_utf8(output.stdout).unwrap();
    let objects = told.lines().filter(|line| line.starts_with('{')).count();
    assert_eq!(objects, 3, "one a run, and the median's once more: {told}");
}

#[test]
fn a_recovery_of_what_has_not_changed_writes_nothing_but_the_acceptances_and_reads_no_content() {
    let (Some(database), Some(redis)) = (fresh_database(), redis_url()) else { return };
    let stores = ["--postgres", &database.url, "--redis", &redis];
    let output = bench().play(&[["recovery", "--json", "--changed", "0"].as_slice(), &stores].concat());
    let verdict = recovered(&output, 60);
    assert_eq!((number(&verdict, "rows_written"), number(&verdict, "records_read")), (60, 0), "{verdict}");
}

#[test]
fn a_server_that_hangs_is_not_waited_for_and_comes_back_before_the_comparison() {
    let output = bench().play(&["recovery", "--json", "--hung", "1", "--cache-wiped"]);
    let verdict = recovered(&output, 30);
    assert_eq!((number(&verdict, "hung"), number(&verdict, "servers")), (1, 2), "{verdict}");
    let refused = bench().play(&["recovery", "--hung", "2"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("leave one that answers"), "{told}");
}

#[test]
fn control_is_measured_alone_and_beside_a_recovery_and_every_subscriber_is_told_everything() {
    let options = ["--clients", "3", "--in-flight", "2", "--subscribers", "2", "--seconds", "1"];
    let verdict = ran(&bench().play(&[["control", "--json"].as_slice(), &options].concat()));
    for measured in ["commands", "recoveries", "recovering_commands", "events"] {
        assert!(number(&verdict, measured) > 0, "{measured}: {verdict}");
    }
    assert_eq!(number(&verdict, "recovering_meetings"), 30, "{verdict}");
    let refused = bench().play(&["control", "--clients", "40"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("give at least 320"), "{told}");
}
