//! A scheduler: `remeet run` as a process that is started, killed, stopped and continued.

use super::backing::Backing;
use super::directory::Directory;
use super::process::{free_port, log_file, now_ms, program, tail};
use super::{DOMAIN, Server, Setting, StageError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Child;

/// See the module's page.
pub(crate) struct Scheduler {
    pub(crate) name: String,
    /// Where it lets clients in; kept over its restarts.
    pub(crate) clients_at: SocketAddr,
    /// Its operator's socket.
    pub(crate) operator: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// What its configuration is written from.
pub(super) struct Parts<'a> {
    pub(super) setting: &'a Setting,
    pub(super) backing: &'a Backing,
    pub(super) servers: &'a [Server],
    pub(super) clients: &'a [(u32, String)],
}

impl Scheduler {
    /// Writes its configuration; it is not started yet.
    pub(super) fn set(name: &str, parts: &Parts<'_>, directory: &Directory, logs: &Path) -> Result<Self, StageError> {
        let scheduler = Self {
            name: name.to_owned(),
            clients_at: free_port()?,
            operator: directory.file(&format!("{name}.sock")),
            config: directory.file(&format!("{name}.toml")),
            log: logs.join(format!("{name}.log")),
            child: None,
        };
        let wrong = |error: &dyn std::fmt::Display| StageError::new(format!("the scheduler's configuration: {error}"));
        let text = toml::to_string(&scheduler.settings(parts, directory)).map_err(|error| wrong(&error))?;
        std::fs::write(&scheduler.config, text).map_err(|error| wrong(&error))?;
        Ok(scheduler)
    }

    fn settings(&self, parts: &Parts<'_>, directory: &Directory) -> serde_json::Value {
        let servers: Vec<_> = parts
            .servers
            .iter()
            .map(|server| json!({"id": server.id, "name": server.name, "address": server.address}))
            .collect();
        let clients: Vec<_> =
            parts.clients.iter().map(|(id, name)| json!({"id": id, "name": name, "rights": ["control"]})).collect();
        let mut settings = json!({
            "scheduler": {
                "domain": DOMAIN, "name": format!("{} scheduler", parts.setting.word), "node": self.name,
                "state_directory": directory.path().join(format!("{}-state", self.name)),
            },
            "store": {"url": parts.backing.store_url},
            "cache": {"url": parts.backing.cache_url},
            // Servers on the same machine are dialled again soon.
            "link": {"reconnect_first_ms": 50, "reconnect_max_ms": 250},
            "clients": {"listen": self.clients_at},
            "operator": {"socket": self.operator},
            "log": {"filter": "info", "format": "text"},
            "server": servers,
            "client": clients,
        });
        if let Some(lease) = parts.setting.lease {
            settings["scheduler"]["lease_ms"] = json!(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        }
        settings
    }

    /// Starts it; it is not ready yet. Returns when that was, in milliseconds since 1970.
    pub(crate) fn start(&mut self) -> Result<u64, StageError> {
        let mut command = program()?;
        command.arg("run").arg("--config").arg(&self.config).stdout(Stdio::null()).stderr(log_file(&self.log)?);
        let spawned_at_ms = now_ms();
        let child = command.spawn().map_err(|error| StageError::new(format!("cannot start the scheduler: {error}")))?;
        self.child = Some(child);
        Ok(spawned_at_ms)
    }

    /// `kill -9`, which works on a stopped process too.
    pub(crate) async fn kill(&mut self) -> Result<(), StageError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let killed = child.kill().await;
        killed.map_err(|error| StageError::new(format!("the scheduler could not be killed: {error}")))
    }

    /// `kill -STOP`: it does nothing until it is continued.
    pub(crate) fn pause(&self) -> Result<(), StageError> {
        self.signal(Signal::STOP)
    }

    /// `kill -CONT`.
    pub(crate) fn go_on(&self) -> Result<(), StageError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), StageError> {
        let failed = |reason: &dyn std::fmt::Display| {
            StageError::new(format!("scheduler {} was not sent {signal:?}: {reason}", self.name))
        };
        let id = self.pid().ok_or_else(|| failed(&"it does not run"))?;
        let id = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or_else(|| failed(&"its id is none"))?;
        kill_process(id, signal).map_err(|error| failed(&error))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// An error if it has ended by itself.
    pub(super) fn lives(&mut self) -> Result<(), StageError> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(code))) => {
                let text = format!("the scheduler {} has ended ({code}):\n{}", self.name, self.log_tail());
                Err(StageError::new(text))
            }
            _ => Ok(()),
        }
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }
}
