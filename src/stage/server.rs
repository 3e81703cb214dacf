//! A simulated autonomous server: a process that outlives the schedulers.

use super::directory::Directory;
use super::process::{log_file, program, tail};
use super::{DOMAIN, Setting, StageError};
use crate::simulator::ControlClient;
use remeet_protocol::ServerId;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

/// It says that it is ready within this.
const READY: Duration = Duration::from_secs(20);

/// See the module's page.
pub(crate) struct Server {
    pub(crate) id: ServerId,
    pub(crate) control: ControlClient,
    /// Where another control connection finds it.
    pub(crate) control_at: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) name: String,
    child: Child,
    log: PathBuf,
    /// Kept open: the server would be ended by writing to a closed pipe.
    _out: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Listening {
    listening: SocketAddr,
}

impl Server {
    /// Starts it, and returns when it listens.
    pub(super) async fn start(
        id: u32,
        setting: &Setting,
        directory: &Directory,
        logs: &Path,
    ) -> Result<Self, StageError> {
        let failed = |error: &dyn std::fmt::Display| StageError::new(format!("simulated server {id}: {error}"));
        let control_at = directory.file(&format!("server-{id}.sock"));
        let log = logs.join(format!("server-{id}.log"));
        let name = format!("{} server {id}", setting.word);
        let mut command = program()?;
        command.arg("simulate").args(["--server-id", &id.to_string(), "--domain-id", &DOMAIN.to_string()]);
        command.args(["--name", &name, "--seed", &setting.seed.wrapping_add(u64::from(id)).to_string()]);
        command.arg("--control").arg(&control_at);
        command.stdout(Stdio::piped()).stderr(log_file(&log)?);
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let Some(out) = child.stdout.take() else { return Err(failed(&"it has no standard output")) };
        let mut out = BufReader::new(out);
        let mut line = String::new();
        match timeout(READY, out.read_line(&mut line)).await {
            Ok(Ok(read)) if read > 0 => {}
            Ok(Ok(_)) => return Err(failed(&format!("it ended before it was ready:\n{}", tail(&log)))),
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&format!("it was not ready within {} s", READY.as_secs()))),
        }
        let Listening { listening: address } = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        let control = ControlClient::connect(&control_at).await?;
        Ok(Self { id: ServerId(id), control, control_at, address, name, child, log, _out: out })
    }

    /// An error if it has ended by itself.
    pub(super) fn lives(&mut self) -> Result<(), StageError> {
        match self.child.try_wait() {
            Ok(Some(code)) => {
                let log = tail(&self.log);
                Err(StageError::new(format!("simulated server {} has ended ({code}):\n{log}", self.id)))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn kill(&mut self) -> Result<(), StageError> {
        let killed = self.child.kill().await;
        killed.map_err(|error| StageError::new(format!("server {} could not be killed: {error}", self.id)))
    }
}
