//! The command line of `remeet bench`.

use crate::stage::{Stores, fraction};

/// Measure on this machine, with real processes, sockets and stores.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    pub(super) what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub(super) enum What {
    /// Kill a scheduler that commands many meetings, and measure how soon another start has them all back.
    ///
    /// Simulated servers and the store are filled with the same meetings; a first start brings the cache up to date.
    /// Then, for each run, a part of the meetings changes while nobody commands, the scheduler is started again, and
    /// what it reports is measured from the start of its process. At the end everything is compared field by field.
    Recovery(Recovery),
    /// Let clients command as fast as they are answered, alone and while a recovery runs, and count events at subscribers.
    ///
    /// Each command is stored before it is sent to its server, and its result before it is answered. For the recovery the
    /// links of half of the servers are cut and restored, again and again, while all meetings on them change.
    Control(Control),
}

/// The meetings that a bench is made on.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Network {
    /// Simulated autonomous servers, each a process.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub servers: u32,
    /// Meetings in all.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub meetings: u32,
    /// Terminals of each meeting.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub terminals: u16,
    /// Drives every choice, so that a run can be repeated.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Real servers instead of the embedded ones.
    #[command(flatten)]
    pub stores: Stores,
}

/// The recovery bench.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Recovery {
    #[command(flatten)]
    pub network: Network,
    /// The part of the meetings that changes while nobody commands, 0 to 1: in each a terminal joins, one leaves, one
    /// decodes something else and one tells something else.
    #[arg(long, default_value_t = 0.05, value_parser = fraction)]
    pub changed: f64,
    /// So many of the servers accept connections and answer nothing; their meetings are not waited for.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub hung: u32,
    /// The cache is emptied before each start.
    #[arg(long)]
    pub cache_wiped: bool,
    /// Kills and starts, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Print each run's numbers as a JSON object, the median run's once more as the last line of standard output.
    #[arg(long)]
    pub json: bool,
}

impl Recovery {
    /// What one option alone cannot tell.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.hung >= self.network.servers {
            return Err(format!("--hung {} of --servers {}: leave one that answers", self.hung, self.network.servers));
        }
        Ok(())
    }
}

/// The control bench.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Control {
    #[command(flatten)]
    pub network: Network,
    /// Meeting clients.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub clients: u32,
    /// Commands that each client has open.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub in_flight: u32,
    /// How long each part is measured.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Clients that subscribe to all events.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub subscribers: u32,
    /// Print the numbers as one JSON object, the last line of standard output.
    #[arg(long)]
    pub json: bool,
}

impl Control {
    /// What one option alone cannot tell.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.network.servers < 2 {
            return Err("--servers 1: one half commands while the other recovers, so give at least 2".to_owned());
        }
        let open = self.clients * self.in_flight;
        if self.network.meetings / 2 < open {
            return Err(format!(
                "--meetings {}: {open} commands are open at a time, each on a meeting of its own: give at least {}",
                self.network.meetings,
                2 * open
            ));
        }
        Ok(())
    }
}
