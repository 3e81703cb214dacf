//! `remeet bench`: how fast, with real processes, sockets and stores; and how near that is to what the machine can do.
//!
//! ```text
//!                        ┌──────────── bench (this process) ────────────┐
//!   simulate ×N  <───────┤ fill      the same legs in servers and store │
//!      ^                 │ recovery  change, kill -9, start, wait       ├──> SQLite file / PostgreSQL
//!      │ TCP             │ floor     the same rows and packets, bare    ├──> Redis
//!   run --config  <──────┤ control   clients command and subscribe      │
//!                        │ verdict   numbers, one JSON line             │
//!                        └──────────────────────────────────────────────┘
//! ```
//!
//! Every guard stays on, and every run is compared field by field by the independent reader at its end.

mod control;
mod fill;
mod floor;
mod ground;
mod load;
mod options;
mod recovery;
mod verdict;

pub use options::Options;

use crate::stage::say;
use options::What;
use std::process::ExitCode;

/// Runs a bench. The exit code is 0 only if everything was recovered and nothing differs, else 1.
///
/// Standard output gets the numbers, with `--json` as one JSON object a run, the median run's once more as the last
/// line. Standard error gets the progress. Processes, files and databases of the bench are gone when this returns, also
/// after an error or a signal.
pub async fn run(options: Options) -> ExitCode {
    let result = match &options.what {
        What::Recovery(options) => Box::pin(recovery::run(options)).await,
        What::Control(options) => Box::pin(control::run(options)).await,
    };
    match result {
        Ok(ok) => {
            if ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            say(&mut std::io::stderr(), &format!("remeet bench: {error}"));
            ExitCode::FAILURE
        }
    }
}
