//! Goal: the shipped unit is correct and keeps the daemon in a narrow sandbox. Method: systemd's own
//! checks, which need no running systemd.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/remeet.service");

/// `systemd-analyze`, or nothing where the tests of the machine's services were left out on purpose.
fn analyze(arguments: &[&str], unit: &Path) -> Option<Output> {
    match Command::new("systemd-analyze").args(arguments).arg(unit).output() {
        Ok(output) => Some(output),
        Err(error) if std::env::var("REMEET_TEST_EMBEDDED_ONLY").as_deref() == Ok("1") => {
            eprintln!("left out, REMEET_TEST_EMBEDDED_ONLY=1: systemd-analyze: {error}");
            None
        }
        Err(error) => panic!(
            "systemd-analyze cannot be run: {error}. It is in Debian's package systemd: apt-get install systemd, \
             or leave it out with REMEET_TEST_EMBEDDED_ONLY=1"
        ),
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The unit as it would be installed, with this build's binary.
fn installed(directory: &Path) -> PathBuf {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let installed = unit.replace("/usr/bin/remeet", env!("CARGO_BIN_EXE_remeet"));
    assert_ne!(unit, installed, "the unit starts /usr/bin/remeet");
    let path = directory.join("remeet.service");
    std::fs::write(&path, installed).unwrap();
    path
}

#[test]
fn the_unit_is_verified_without_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let Some(output) = analyze(&["verify"], &installed(directory.path())) else { return };
    let said = text(&output);
    // Complaints about units of this machine are none of ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("remeet")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn a_mistake_in_the_unit_would_be_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = installed(directory.path());
    let unit = std::fs::read_to_string(&path).unwrap().replace("RestartSec=500ms", "RestartSec=soon");
    std::fs::write(&path, unit).unwrap();
    let Some(output) = analyze(&["verify"], &path) else { return };
    assert!(text(&output).contains("soon"), "{}", text(&output));
}

#[test]
fn the_sandbox_is_at_most_15_of_100_exposed() {
    let Some(output) = analyze(&["security", "--offline=true", "--threshold=15", "--no-pager"], Path::new(UNIT)) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("Overall exposure level for remeet.service"), "{}", text(&output));
}

#[test]
fn the_unit_the_user_and_the_example_belong_together() {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let has = |line: &str| unit.lines().any(|it| it == line);
    for line in [
        "Type=notify",
        "User=remeet",
        "StateDirectory=remeet",
        "RuntimeDirectory=remeet",
        "LoadCredential=store-url:remeet.store-url",
        "LoadCredential=cache-url:remeet.cache-url",
        "RestartPreventExitStatus=2",
    ] {
        assert!(has(line), "{line}");
    }
    let users = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/sysusers.d/remeet.conf");
    assert!(std::fs::read_to_string(users).unwrap().lines().any(|line| line.starts_with("u remeet ")));
    let defaults = remeet::config::Config::default();
    assert_eq!(defaults.scheduler.state_directory, Path::new("/var/lib/remeet"), "StateDirectory=remeet");
    assert_eq!(defaults.operator.socket, Path::new("/run/remeet/operator.sock"), "RuntimeDirectory=remeet");
}
