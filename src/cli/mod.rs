//! The command line: arguments, signals, wiring, and what a person reads.
//!
//! Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration.

mod client;
mod demo;
mod drill;
mod migrate;
mod operator;
mod output;
mod plan;
mod run;
mod simulate;
mod troubled;

use clap::{Args, Parser, Subcommand};
use output::Failure;
use remeet_protocol::{LegId, MeetingId};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Conference-recovery daemon of a video-network scheduler.
#[derive(Debug, Parser)]
#[command(name = "remeet", version, about, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the scheduler.
    Run(ConfigFile),
    /// Check a configuration and say what is wrong in it.
    #[command(alias = "validate")]
    Check(ConfigFile),
    /// Bring the database's schema up to date, before a release is installed on the first node.
    ///
    /// `remeet run` does this too, at its start. Changes only add: a scheduler of the release before goes on
    /// meanwhile, and may be started again afterwards.
    Migrate(migrate::Options),
    /// Show how the running scheduler is: what is wrong stands first.
    Status(operator::StatusOptions),
    /// Compare with the servers (or with one) now and recover what is missing.
    ///
    /// This is done by itself at every start, whenever a link comes back, and now and then.
    Recover(operator::RecoverOptions),
    /// Show the meetings that are not well, why, and what to do.
    Troubled(operator::TroubledOptions),
    /// Pull a quarantined leg whole and count it again; wait for what comes of it.
    ///
    /// A leg is quarantined when what was stored of it does not add up to what its server says, even after
    /// everything was pulled. It stays in control meanwhile. Its quarantine is lifted once it adds up.
    LiftQuarantine(operator::LiftOptions),
    /// Mark a meeting to be recovered first, before larger ones.
    Mark(operator::MarkOptions),
    /// Hand over to a standby: what is under way is stored, then the lease is released.
    StepDown(operator::SocketOptions),
    /// Print everything in the cache as JSON, a leg a line, recovery keys without their secrets.
    DumpCache(operator::SocketOptions),
    /// Create, control and watch meetings as a meeting client.
    Client(Box<client::Options>),
    /// Run a simulated autonomous server.
    Simulate(Box<crate::simulator::Options>),
    /// Kill a scheduler and watch it take every live meeting back, checked by an independent reader.
    Demo(Box<crate::demo::Options>),
    /// Kill or stop a scheduler at random moments, again and again, and compare everything after each cycle.
    Drill(Box<crate::drill::Options>),
    /// Measure on this machine: recovery, beside what plain statements and packets take for the same.
    Bench(Box<crate::bench::Options>),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "REMEET_CONFIG", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

const DEFAULT_CONFIG: &str = "/etc/remeet/remeet.toml";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 it failed (standard error says why), 2 wrong usage or configuration.";

/// Blocking work that is still going on at the end (a name look-up, a file) is left after this long.
const RUNTIME_END: Duration = Duration::from_secs(2);

/// Reads the arguments, does what they say, and answers the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    // Wrong usage ends the process here with code 2, --help and --version with 0.
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output::end(Err(Failure::failed(format!(
                "cannot start the runtime: {error}; free some memory or threads"
            ))));
        }
    };
    let code = runtime.block_on(Box::pin(dispatch(cli.command)));
    runtime.shutdown_timeout(RUNTIME_END);
    code
}

async fn dispatch(command: Command) -> ExitCode {
    let result = match command {
        Command::Run(file) => Box::pin(run::run(&file.config)).await,
        Command::Check(file) => run::check(&file.config),
        Command::Migrate(options) => migrate::run(&options).await,
        Command::Status(options) => operator::status(options).await,
        Command::Recover(options) => operator::recover(options).await,
        Command::Troubled(options) => operator::troubled(options).await,
        Command::LiftQuarantine(options) => operator::lift(options).await,
        Command::Mark(options) => operator::mark(options).await,
        Command::StepDown(options) => operator::step_down(options).await,
        Command::DumpCache(options) => operator::dump_cache(options).await,
        Command::Client(options) => Box::pin(client::run(*options)).await,
        Command::Simulate(options) => simulate::run(*options).await,
        Command::Demo(options) => return demo::run(*options).await,
        Command::Drill(options) => return drill::run(*options).await,
        Command::Bench(options) => return Box::pin(crate::bench::run(*options)).await,
    };
    output::end(result)
}

/// A meeting's id.
fn meeting(text: &str) -> Result<MeetingId, String> {
    let wrong =
        |error| format!("{text:?} is not a meeting's id: {error}; remeet client list and remeet troubled show ids");
    text.parse().map_err(wrong)
}

/// `MEETING/LEG`; the leg's number may be left out: most meetings have one.
fn plain_leg(text: &str) -> Result<LegId, String> {
    let (meeting, leg) = text.split_once('/').unwrap_or((text, "0"));
    Ok(LegId {
        meeting: self::meeting(meeting)?,
        leg: leg.parse().map_err(|error| format!("{leg:?} is not a leg's number: {error}"))?,
    })
}
