//! The command line of `remeet simulate`.

use std::net::SocketAddr;
use std::path::PathBuf;

/// A simulated autonomous server: carries meetings alone, without media.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to listen for schedulers: a loopback address; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// The server's id, unique in the whole network.
    #[arg(long, default_value_t = 1, value_name = "ID")]
    pub server_id: u32,
    /// The autonomous domain; only its scheduler is welcome, if --scheduler-domain names no other.
    #[arg(long, default_value_t = 1, value_name = "ID")]
    pub domain_id: u32,
    /// The domain whose scheduler is welcome; the server's own if not given.
    #[arg(long, value_name = "ID")]
    pub scheduler_domain: Option<u32>,
    /// Relay for a server below this one: ID@ADDRESS, or ID@ADDRESS/ID,ID with the servers below that. May be given often.
    #[arg(long = "child", value_name = "CHILD")]
    pub children: Vec<super::Child>,
    /// The server's name, at most 64 bytes.
    #[arg(long, default_value = "simulated server")]
    pub name: String,
    /// Keep the state in this file, so that the server comes back with its meetings after its process
    /// ended in any way. Only one server may use a file.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Begin a new life of the table although the state file holds one: all meetings are lost, the
    /// highest token is not.
    #[arg(long, requires = "state")]
    pub new_boot: bool,
    /// Listen on this unix socket for control requests, one JSON object a line.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Drives the server's own choices; random if not given. The boot id is random always.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Accept new keys for orphans.
    #[arg(long)]
    pub permit_adopt: bool,
    /// Events kept for a scheduler that does not acknowledge them; more are lost and reported as a gap.
    /// The default holds more than a minute of a thousand changes a second.
    #[arg(long, default_value_t = 65_536, value_name = "EVENTS")]
    pub event_queue: usize,
    /// Removals that each leg keeps for pulls: a dozen terminals with all their windows and entries.
    #[arg(long, default_value_t = 1024, value_name = "REMOVALS")]
    pub removals: usize,
    /// Delay every packet by this much.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub latency_ms: u64,
    /// Expect a packet from a peer at least this often; one silent for three times as long is cut.
    #[arg(long, default_value_t = 5000, value_name = "MS")]
    pub keep_alive_ms: u32,
    /// Let terminals change by themselves, so many changes a second.
    #[arg(long, default_value_t = 0.0, value_name = "CHANGES")]
    pub script_rate: f64,
    /// Break the protocol from the start.
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub misbehave: super::Misbehaviour,
}

impl Default for Options {
    /// As the command line without an argument.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            server_id: 1,
            domain_id: 1,
            scheduler_domain: None,
            children: Vec::new(),
            name: "simulated server".to_owned(),
            state: None,
            new_boot: false,
            control: None,
            seed: None,
            permit_adopt: false,
            event_queue: 65_536,
            removals: 1024,
            latency_ms: 0,
            keep_alive_ms: 5000,
            script_rate: 0.0,
            misbehave: super::Misbehaviour::None,
        }
    }
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
    fn the_defaults_in_code_are_those_of_the_command_line() {
        let parsed = Program::parse_from(["simulate"]).options;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Options::default()));
    }
}
