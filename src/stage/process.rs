//! This very program as a process of its own, with its log.

use super::StageError;
use rand::Rng;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::process::Command;

/// Bytes of a log that are shown when its process fails.
const LOG_TAIL_BYTES: u64 = 16_000;
/// Below the ports that systems give to outgoing connections: while a scheduler is dead, a client that dials its
/// port from such a port could be connected to itself, and the port would be taken.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Tries at a free port.
const TRIES: u32 = 1_000;

/// This program. Its processes die with the play, and read nothing from its input.
pub(super) fn program() -> Result<Command, StageError> {
    let path = std::env::current_exe();
    let path = path.map_err(|error| StageError::new(format!("the program does not find itself: {error}")))?;
    let mut command = Command::new(path);
    // What surrounds the play must not configure its scheduler.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("REMEET_") || name_text == "NOTIFY_SOCKET" || name_text == "CREDENTIALS_DIRECTORY" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

pub(super) fn log_file(path: &Path) -> Result<File, StageError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| StageError::new(format!("{}: {error}", path.display())))
}

/// The end of a log.
pub(super) fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// An address on the loopback that nobody listens on now, for a process that comes and goes.
pub(super) fn free_port() -> Result<SocketAddr, StageError> {
    let mut rng = rand::rng();
    for _ in 0..TRIES {
        let address = SocketAddr::from(([127, 0, 0, 1], rng.random_range(PORTS)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(StageError::new(format!("no free port on the loopback between {} and {}", PORTS.start, PORTS.end)))
}

/// Milliseconds since 1970 UTC: compared with what a scheduler's report says, on the same machine.
#[allow(clippy::disallowed_methods, reason = "the one place of the plays that reads the wall clock")]
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
