//! `remeet demo` and `remeet drill` as a user runs them: a program with an exit code, a last line, and nothing left
//! behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "no runtime here: the play is a process, and the clock is the wall's")]

use serde_json::Value;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The processes of an ended play are gone within this.
const GONE: Duration = Duration::from_secs(20);

/// A play with a temporary directory of its own, in which nothing may be left.
pub(crate) struct Playing {
    word: &'static str,
    size: &'static [&'static str],
    directory: TempDir,
}

impl Playing {
    /// `size` is given to every command line that does not say how many meetings.
    pub(crate) fn new(word: &'static str, size: &'static [&'static str]) -> Self {
        Self { word, size, directory: tempfile::Builder::new().prefix("d").tempdir_in("/tmp").unwrap() }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remeet"));
        command.arg(self.word).args(arguments).env("TMPDIR", self.directory.path());
        if !arguments.contains(&"--meetings") {
            command.args(self.size);
        }
        // What surrounds a play must not change it: an unknown setting would stop its scheduler.
        command.env("REMEET_SCHEDULER__NAME", "").stdin(Stdio::null());
        command
    }

    /// Plays it to its end; nothing is left.
    pub(crate) fn play(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        self.nothing_is_left();
        output
    }

    /// No file, and no process that works in the directory.
    pub(crate) fn nothing_is_left(&self) {
        let begun = Instant::now();
        loop {
            let files: Vec<_> =
                std::fs::read_dir(self.directory.path()).unwrap().map(|it| it.unwrap().path()).collect();
            let processes = self.processes();
            if files.is_empty() && processes.is_empty() {
                return;
            }
            assert!(begun.elapsed() < GONE, "left behind: {files:?}, processes {processes:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Processes that name the directory on their command line.
    pub(crate) fn processes(&self) -> Vec<String> {
        let directory = self.directory.path().to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(directory)).collect()
    }
}

/// The object in the last line of what it printed.
pub(crate) fn verdict(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let last = text.lines().last().unwrap_or_default();
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(last).unwrap_or_else(|error| panic!("the last line {last:?} is no object: {error}\n{told}"))
}

pub(crate) fn number(object: &Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("{field} of {object}"))
}
