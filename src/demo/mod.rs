//! The mission end to end. Only its entry point and its options stand here until its branch is merged.

use std::process::ExitCode;

/// Arguments of `remeet demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Autonomous servers.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub servers: u32,
    /// Meetings, in all.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub meetings: u32,
    /// Terminals of each meeting.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub terminals: u32,
    /// Seed of everything that is random in the demo.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How many of the meetings change while nobody commands them, 0 to 1.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.25)]
    pub changed: f64,
    /// A PostgreSQL database to use instead of the embedded store.
    #[arg(long, value_name = "URL")]
    pub postgres: Option<String>,
    /// A Redis server to use instead of the embedded cache.
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Plant a difference on purpose: the demo must find it and exit with code 1.
    #[arg(long)]
    pub plant_difference: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
}

/// Runs it. 0 only when no difference was found.
pub async fn run(_options: Options) -> ExitCode {
    eprintln!("remeet: the demo is not part of this build");
    ExitCode::FAILURE
}
