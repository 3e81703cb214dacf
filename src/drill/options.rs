//! The command line of `remeet drill`.

use crate::stage::Stores;
use std::path::PathBuf;

/// What is done to the scheduler in each cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillKind {
    /// One scheduler, killed with SIGKILL and started again.
    #[default]
    Crash,
    /// A pair: the active one is stopped with SIGSTOP until the other commands, then continued.
    Pause,
}

/// Kill or stop a scheduler at random moments, again and again, and compare everything after each cycle.
///
/// Meeting clients command all the time and repeat what was not answered; terminals change by themselves; links are
/// cut, servers restart, the cache is emptied. After each cycle an oracle compares database, cache, the servers'
/// truth and what the clients were answered. Every moment is drawn from the seed. The exit code is 0 only if there
/// is no difference.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Cycles to go through.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub cycles: u32,
    /// What is done to the scheduler.
    #[arg(long, value_enum, default_value_t)]
    pub kind: DrillKind,
    /// Drives every choice; random if not given, and printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The first cycle's number: begins with what that cycle draws, to repeat a difference.
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub first_cycle: u32,
    /// Simulated autonomous servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub servers: u32,
    /// Meetings at a time: when one has ended another begins.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub meetings: u32,
    /// Terminals that clients call into a meeting at most.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..=50))]
    pub terminals: u16,
    /// Real servers instead of the embedded ones.
    #[command(flatten)]
    pub stores: Stores,
    /// Alter one stored field just before the last cycle's comparison: the drill must find it and exit with 1.
    #[arg(long)]
    pub plant_difference: bool,
    /// Keep the logs of every process in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub logs: Option<PathBuf>,
    /// Print the result as one JSON object, the last line of standard output.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_plain_drill_is_short_and_embedded() {
        let options = Program::parse_from(["drill"]).options;
        assert_eq!((options.cycles, options.first_cycle, options.kind), (20, 1, DrillKind::Crash));
        assert!(options.seed.is_none() && options.stores.postgres.is_none() && options.stores.redis.is_none());
    }

    #[test]
    fn a_drill_of_no_cycle_shows_nothing_and_is_refused() {
        for wrong in [["drill", "--cycles=0"], ["drill", "--first-cycle=0"], ["drill", "--kind=sigterm"]] {
            assert!(Program::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
