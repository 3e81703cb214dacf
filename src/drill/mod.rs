//! `remeet drill`: the real daemon is killed or stopped at random moments, again and again, and compared with an
//! oracle after every cycle.
//!
//! ```text
//!                        ┌──────────────── drill (this process) ────────────────┐
//!   simulate ×N  <───────┤ faults    cut links, restarts, ends, changes         │
//!      ^                 │ plan      every moment, drawn from (seed, cycle)     │
//!      │ TCP             │ cycle     kill -9 / SIGSTOP, start / SIGCONT, settle ├──> SQLite file / PostgreSQL
//!   run (one or a pair)  │ flow      clients command all the time               │
//!      ^                 │ oracle    meeting + fates + crate::stage::reader     ├──> operator's socket / Redis
//!      └── gate ── TCP ──┤ repeats   answered commands once more                │
//!                        └──────────────────────────────────────────────────────┘
//! ```
//!
//! Only moments are drawn; every wait is for a condition, with a deadline that names it.

mod cycle;
mod fates;
mod faults;
mod flow;
mod gate;
mod meeting;
mod options;
mod oracle;
mod plan;
mod play;
mod repeats;
mod verdict;

pub use options::{DrillKind, Options};

use crate::stage::say;
use std::process::ExitCode;
use verdict::Tally;

/// Goes through the cycles. The exit code is 0 only without a difference, 1 otherwise.
///
/// Standard output gets the differences, the table and the verdict; with `--json` its last line is one JSON object.
/// Standard error gets the progress. Processes, files and databases of the drill are gone when this returns, also
/// after an error or a signal.
pub async fn run(options: Options) -> ExitCode {
    let seed = options.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let begun = tokio::time::Instant::now();
    let mut tally = Tally::default();
    let played = Box::pin(play::play(&options, seed, &mut tally)).await;
    if let Err(error) = played {
        tally.broken = true;
        say(&mut std::io::stderr(), &format!("remeet drill: {error}"));
    }
    let out = &mut std::io::stdout();
    say(out, &tally.table());
    let took = begun.elapsed().as_secs_f64();
    say(out, &format!("{} (took {took:.1} s)", tally.sentence(options.kind, seed)));
    if options.json {
        say(out, &tally.json(options.kind, seed, options.first_cycle));
    }
    if tally.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
