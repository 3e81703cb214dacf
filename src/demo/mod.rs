//! `remeet demo`: the mission end to end, on one machine, with real processes and real sockets.
//!
//! ```text
//!                       ┌──────────────── demo (this process) ────────────────┐
//!   simulate ×N  <──────┤ crate::stage  processes: spawn, kill -9, clean up   │
//!      ^   control      │ population  meeting clients create and start        │
//!      │   sockets      │ acts        restart; link restored                  ├──> SQLite file / PostgreSQL
//!      v   TCP          │ reader      compares sinks with each server's truth ├──> operator's socket / Redis
//!   run --config <──────┤ verdict     counts, differences, one line           │
//!                       └─────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing here waits for luck: every wait is for a condition, with a deadline that names it.

mod acts;
mod clients;
mod options;
mod play;
mod population;
mod table;
mod troubles;
mod verdict;

pub use options::Options;
pub use verdict::{Act, ActName, Verdict};

use crate::stage::say;
use std::process::ExitCode;

/// Plays the demo. The exit code is 0 only without a difference and with everything as expected, 1
/// otherwise, 2 for options that do not fit each other.
///
/// Standard output gets the tables and the verdict; with `--json` its last line is one JSON object.
/// Standard error gets the progress. Processes, files and databases of the demo are gone when this
/// returns, also after an error or a signal.
pub async fn run(options: Options) -> ExitCode {
    if let Err(problem) = options.check() {
        say(&mut std::io::stderr(), &format!("remeet demo: {problem}"));
        return ExitCode::from(2);
    }
    let begun = tokio::time::Instant::now();
    let played = Box::pin(play::play(&options)).await;
    let took = begun.elapsed().as_secs_f64();
    let (code, verdict) = match played {
        Ok(verdict) => {
            say(&mut std::io::stdout(), &format!("{} (played in {took:.1} s)", verdict.sentence()));
            (if verdict.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }, verdict)
        }
        Err(error) => {
            say(&mut std::io::stderr(), &format!("remeet demo: {error}"));
            say(&mut std::io::stdout(), "NOT OK: the demo could not be played to its end");
            (ExitCode::FAILURE, Verdict::default())
        }
    };
    if options.json {
        say(&mut std::io::stdout(), &verdict.json());
    }
    code
}
