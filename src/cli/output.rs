//! What goes to standard output and error, and the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command ended badly: what happened, where, what to do.
#[derive(Debug)]
pub(super) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// It failed: exit code 1.
    pub(super) fn failed(text: impl ToString) -> Self {
        Self { text: text.to_string(), code: 1 }
    }

    /// Wrong usage or configuration: exit code 2.
    pub(super) fn usage(text: impl ToString) -> Self {
        Self { text: text.to_string(), code: 2 }
    }
}

/// The exit code of a result; a failure's text goes to standard error.
pub(super) fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell if standard error is gone too.
            let _ = writeln!(io::stderr(), "remeet: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints text as it is. Whether somebody still reads: a reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints a line.
pub(super) fn line(text: &str) -> Result<bool, Failure> {
    print(&format!("{text}\n"))
}

/// Text of a peer for a terminal: control characters could rewrite the screen.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
