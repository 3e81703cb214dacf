//! `remeet demo` as a user runs it: a program with an exit code, a last line, and nothing left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "no runtime here: the demo is a process, and the clock is the wall's")]

use crate::playing::{Playing, number, verdict};
use crate::servers::{fresh_database, redis_url};
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A small network: the demo takes some seconds, on a machine that compiles beside it more.
const SMALL: [&str; 6] = ["--servers", "2", "--meetings", "40", "--terminals", "3"];
/// What the demo promises for its default size, on any machine that builds it: it takes some 3 s.
const DEFAULT_WITHIN: Duration = Duration::from_secs(60);

fn demo() -> Playing {
    Playing::new("demo", &SMALL)
}

/// As somebody plays it who knows no options.
fn default_demo() -> Output {
    Playing::new("demo", &[]).play(&["--json"])
}

/// Exit code 0, every sum and every promise of the two acts.
fn everything_is_recovered(output: &Output) {
    let told = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let verdict = verdict(output);
    assert!(output.status.success() && verdict["ok"] == true, "{told}");
    let acts = verdict["acts"].as_array().unwrap();
    assert_eq!((&acts[0]["act"], &acts[1]["act"], acts.len()), (&"restart".into(), &"link_restored".into(), 2));
    for act in acts {
        let sum: u64 = ["recovered", "orphans", "pending", "ended"].map(|field| number(act, field)).iter().sum();
        assert_eq!(number(act, "meetings_live"), sum, "rule 6: {act}");
        for nothing in ["differences", "vanished", "pending", "clients_lost"] {
            assert_eq!(number(act, nothing), 0, "{nothing} of {act}\n{told}");
        }
        assert_eq!((number(act, "clients_connected"), number(act, "epoch")), (4, 2), "{told}");
        assert!(number(act, "in_control_ms") > 0 && number(act, "backfilled_ms") >= number(act, "in_control_ms"));
    }
    assert_eq!(number(&acts[0], "keys_from_cache"), 0, "rule 10: the first pass reads the database only");
    assert_eq!(number(&acts[1], "keys_from_database"), 1, "the one key that was deleted from the cache");
    assert_eq!(number(&acts[1], "keys_from_cache") + 1, number(&acts[1], "recovered"));
}

#[test]
fn the_embedded_demo_recovers_everything_and_leaves_nothing_behind() {
    everything_is_recovered(&demo().play(&["--json", "--seed", "11"]));
}

#[test]
fn the_demo_in_its_default_size_is_done_within_its_promise() {
    let begun = Instant::now();
    let output = default_demo();
    let took = begun.elapsed();
    println!("the default demo took {:.1} s, {} s are promised", took.as_secs_f64(), DEFAULT_WITHIN.as_secs());
    everything_is_recovered(&output);
    assert!(took < DEFAULT_WITHIN, "{took:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("(played in "), "the demo says how long it took: {told}");
    let live = number(&verdict(&output)["acts"][0], "meetings_live");
    assert_eq!(live, 200 - 4 - 2 + 4, "4 ended by themselves, an end and a start are under way, 4 orphans");
}

#[test]
fn one_server_alone_plays_every_part_in_both_acts() {
    let output = demo().play(&["--json", "--servers", "1", "--meetings", "11", "--terminals", "3", "--seed", "16"]);
    everything_is_recovered(&output);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["starts, ends and additions were under way", "1 ended by themselves, 1 orphans appeared"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let verdict = verdict(&output);
    let act = |place: usize| ["recovered", "orphans", "ended"].map(|field| number(&verdict["acts"][place], field));
    // Of 11 one was ended by command, one by the server, one is started again, and one end is finished.
    assert_eq!((act(0), act(1)), ([7, 1, 1], [7, 2, 0]), "{verdict}");
}

#[test]
fn the_demo_on_real_servers_recovers_everything_and_drops_what_it_made() {
    let (Some(database), Some(redis)) = (fresh_database(), redis_url()) else { return };
    let demo = demo();
    everything_is_recovered(&demo.play(&["--json", "--postgres", &database.url, "--redis", &redis, "--seed", "12"]));
    // The same Redis database is empty again, or the demo would refuse it.
    let again = demo.play(&["--json", "--redis", &redis, "--changed", "1", "--seed", "13"]);
    everything_is_recovered(&again);
}

#[test]
fn a_redis_database_that_holds_something_is_refused_and_left_as_it_is() {
    let Some(url) = redis_url() else { return };
    let client = redis::Client::open(url.as_str()).unwrap();
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(10)).unwrap();
    redis::cmd("SET").arg("somebody").arg("else").exec(&mut connection).unwrap();
    let output = demo().play(&["--redis", &url]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not empty"), "{output:?}");
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    assert_eq!(names, ["somebody"]);
}

#[test]
fn a_planted_difference_is_found_named_and_makes_the_exit_code_1() {
    let output = demo().play(&["--plant-difference", "--json", "--seed", "14"]);
    assert_eq!(output.status.code(), Some(1));
    let verdict = verdict(&output);
    assert_eq!(verdict["ok"], false);
    assert_eq!((number(&verdict["acts"][0], "differences"), number(&verdict["acts"][1], "differences")), (0, 1));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("terminal.name") && told.contains("(planted)") && told.contains("NOT OK"), "{told}");
}

#[test]
fn options_that_do_not_fit_each_other_are_refused_before_anything_starts() {
    let output = demo().play(&["--servers", "2", "--meetings", "15"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("at least 16"), "{output:?}");
    let output = demo().play(&["--servers", "1", "--meetings", "10"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("at least 11"), "{output:?}");
}

#[test]
fn a_demo_ended_by_a_signal_leaves_no_process_and_no_file() {
    let demo = demo();
    let mut child = demo.command(&["--seed", "15"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(told.by_ref().map_while(Result::ok).any(|line| line.contains("scheduler and clients are up")));
    assert!(!demo.processes().is_empty(), "servers and scheduler run");
    // The shell's own `kill`: not every machine has the program.
    let signal = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(signal.success());
    let rest: Vec<String> = told.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(rest.iter().any(|line| line.contains("SIGTERM")), "{rest:?}");
    demo.nothing_is_left();
}
