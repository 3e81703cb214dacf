//! Goal: SPEC.md and the code say the same where a table or a rule number stands in both.
//!
//! Method: the text is searched for the rows that the code's own tables give. Field tables and offsets are
//! compared with the golden packets by `golden/check.py`.

#![allow(clippy::unwrap_used)]

use remeet_protocol::message::*;
use remeet_protocol::record::*;
use remeet_protocol::{ErrorCode, Message};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[test]
fn the_message_table_is_the_codes() {
    let spec = spec();
    for (kind, name) in Message::ALL {
        assert!(spec.contains(&format!("\n| 0x{kind:04X} | {name} |")), "SPEC.md section 5 lacks {name} {kind:#06x}");
    }
    let rows = spec.lines().filter(|line| line.starts_with("| 0x0")).count();
    // Two rows of the address table begin alike.
    assert_eq!(rows - spec.lines().filter(|line| line.starts_with("| 0x00 |")).count(), Message::ALL.len());
}

#[test]
fn the_error_table_is_the_codes() {
    let spec = spec();
    for (code, name, sentence) in ErrorCode::ALL {
        assert!(spec.contains(&format!("\n| {} | {name} | {sentence} |", code.0)), "SPEC.md section 6 lacks {code}");
    }
}

#[test]
fn the_enumerations_are_the_codes() {
    let spec = spec();
    macro_rules! listed {
        ($($name:ident),*) => {$(
            let table = section(&spec, stringify!($name));
            for number in 0..=255u8 {
                let value = $name::from(number);
                let row = format!("\n| {number} | {value:?} |");
                let known = !matches!(value, $name::Other(_));
                assert_eq!(table.contains(&row), known, "SPEC.md: {} {number}", stringify!($name));
                assert_eq!(table.contains(&format!("\n| {number} | ")), known, "{} {number}", stringify!($name));
            }
        )*};
    }
    listed!(
        Role,
        LegState,
        EndCause,
        BusinessState,
        LeaveReason,
        Resolution,
        DisplayMode,
        MediaCodec,
        TerminalRole,
        MeetingState,
        EventKind
    );
}

#[test]
fn the_operations_are_the_codes() {
    let spec = spec();
    for (heading, names) in [
        (
            "Command",
            &["start", "end", "add terminal", "remove terminal", "set role", "set decode", "set extra information"][..],
        ),
        (
            "ClientCommand",
            &[
                "create",
                "start",
                "end",
                "add terminal",
                "remove terminal",
                "set role",
                "set decode",
                "set extra information",
                "mark",
                "adopt",
            ][..],
        ),
    ] {
        let section = section(&spec, heading);
        for (number, name) in (1..).zip(names) {
            assert!(section.contains(&format!("\n| {number} | {name} |")), "SPEC.md: {heading} {number} {name}");
        }
    }
}

/// A rule that the code or a test cites must be there, once.
#[test]
fn every_cited_rule_stands_in_the_specification() {
    let spec = spec();
    let rules: Vec<String> = spec
        .lines()
        .filter_map(|line| line.strip_prefix("- **")?.split_once("**").map(|(rule, _)| rule.to_owned()))
        .collect();
    let known: BTreeSet<&String> = rules.iter().collect();
    assert_eq!(known.len(), rules.len(), "a rule's number is used twice");
    let mut cited = BTreeSet::new();
    for file in rust_files(&root().join("src")).into_iter().chain(rust_files(&root().join("tests"))) {
        for after in std::fs::read_to_string(file).unwrap().split("SPEC ").skip(1) {
            cited.extend(rule_at(after));
        }
    }
    for after in spec.split(['(', ' ']) {
        cited.extend(rule_at(after));
    }
    assert!(cited.len() > 30, "the search finds too little: {cited:?}");
    for rule in cited {
        assert!(known.contains(&rule), "{rule} is cited, but SPEC.md has no such rule");
    }
}

/// The rule number at the beginning of a text: one of the letters, `-`, digits.
fn rule_at(text: &str) -> Option<String> {
    let (letter, rest) = text.split_once('-')?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (letter.len() == 1 && "PWAMHQTRDCEKB".contains(letter) && !digits.is_empty() && digits.len() < 3)
        .then(|| format!("{letter}-{digits}"))
}

/// From a structure's heading to the next heading.
fn section<'a>(spec: &'a str, name: &str) -> &'a str {
    let (_, rest) = spec.split_once(&format!("\n#### `{name}`")).unwrap_or_else(|| panic!("SPEC.md has no {name}"));
    rest.split("\n#").next().unwrap()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

fn spec() -> String {
    std::fs::read_to_string(root().join("SPEC.md")).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
