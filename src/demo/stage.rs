//! The processes: simulated servers and the scheduler, each with its log in the demo's directory.

use super::backing::Backing;
use super::directory::Directory;
use super::{DemoError, Options, status};
use crate::ops::status::Status;
use crate::simulator::ControlClient;
use remeet_protocol::ServerId;
use serde::Deserialize;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// The domain of everything in the demo.
pub(crate) const DOMAIN: u32 = 1;
/// A process says that it is ready within this.
const READY: Duration = Duration::from_secs(20);
/// Between two looks at a condition that nobody announces.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Lines of a log that are shown when its process fails.
const LOG_TAIL_BYTES: u64 = 4_000;

/// A simulated server.
pub(crate) struct Server {
    pub(crate) id: ServerId,
    pub(crate) control: ControlClient,
    address: SocketAddr,
    name: String,
    child: Child,
    /// Kept open: the server would be ended by writing to a closed pipe.
    _out: BufReader<ChildStdout>,
}

/// The scheduler's process.
struct Scheduler {
    child: Child,
    log: PathBuf,
}

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) servers: Vec<Server>,
    pub(crate) clients_at: SocketAddr,
    pub(crate) client_names: Vec<(u32, String)>,
    pub(crate) operator: PathBuf,
    scheduler: Option<Scheduler>,
    config: PathBuf,
    starts: u32,
    directory: Directory,
}

#[derive(Deserialize)]
struct Listening {
    listening: SocketAddr,
}

impl Stage {
    /// Starts the servers and writes the scheduler's configuration.
    pub(crate) async fn set(
        options: &Options,
        clients: u32,
        backing: &Backing,
        directory: Directory,
    ) -> Result<Self, DemoError> {
        let mut servers = Vec::new();
        for id in 1..=options.servers {
            servers.push(start_server(id, options.seed, &directory).await?);
        }
        // Freed at once and taken by the scheduler; it keeps it over its restart.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let clients_at = port.map_err(|error| DemoError::new(format!("no free port on the loopback: {error}")))?;
        let client_names = (1..=clients).map(|id| (id, format!("demo client {id}"))).collect();
        let mut stage = Self {
            servers,
            clients_at,
            client_names,
            operator: directory.file("operator.sock"),
            scheduler: None,
            config: directory.file("remeet.toml"),
            starts: 0,
            directory,
        };
        stage.write_config(backing)?;
        Ok(stage)
    }

    fn write_config(&mut self, backing: &Backing) -> Result<(), DemoError> {
        let servers: Vec<_> = self
            .servers
            .iter()
            .map(|server| json!({"id": server.id, "name": server.name, "address": server.address}))
            .collect();
        let clients: Vec<_> =
            self.client_names.iter().map(|(id, name)| json!({"id": id, "name": name, "rights": ["control"]})).collect();
        let config = json!({
            "scheduler": {
                "domain": DOMAIN, "name": "demo scheduler", "node": "demo",
                "state_directory": self.directory.path().join("state"),
            },
            "store": {"url": backing.store_url},
            "cache": {"url": backing.cache_url},
            // Servers on the same machine are dialled again soon.
            "link": {"reconnect_first_ms": 50, "reconnect_max_ms": 250},
            "clients": {"listen": self.clients_at},
            "operator": {"socket": self.operator},
            "log": {"filter": "info", "format": "text"},
            "server": servers,
            "client": clients,
        });
        let wrong = |error: &dyn std::fmt::Display| DemoError::new(format!("the scheduler's configuration: {error}"));
        let text = toml::to_string(&config).map_err(|error| wrong(&error))?;
        std::fs::write(&self.config, text).map_err(|error| wrong(&error))
    }

    /// Starts the scheduler; it is not ready yet. Returns when that was, in milliseconds since 1970.
    pub(crate) fn start_scheduler(&mut self) -> Result<u64, DemoError> {
        self.starts += 1;
        let log = self.directory.file(&format!("scheduler-{}.log", self.starts));
        let mut command = program()?;
        command.arg("run").arg("--config").arg(&self.config).stdout(Stdio::null()).stderr(log_file(&log)?);
        let spawned_at_ms = now_ms();
        let child = command.spawn().map_err(|error| DemoError::new(format!("cannot start the scheduler: {error}")))?;
        self.scheduler = Some(Scheduler { child, log });
        Ok(spawned_at_ms)
    }

    /// `kill -9`.
    pub(crate) async fn kill_scheduler(&mut self) -> Result<(), DemoError> {
        let Some(mut scheduler) = self.scheduler.take() else { return Ok(()) };
        let killed = scheduler.child.kill().await;
        killed.map_err(|error| DemoError::new(format!("the scheduler could not be killed: {error}")))
    }

    /// The scheduler's status, once `is` holds. `doing` names the wait; `each` sees every status.
    pub(crate) async fn status_when(
        &mut self,
        doing: &str,
        deadline: Duration,
        mut each: impl FnMut(&Status),
        mut is: impl FnMut(&Status) -> bool,
    ) -> Result<Status, DemoError> {
        let begun = Instant::now();
        let mut last = "it has not answered at its operator's socket".to_owned();
        loop {
            if let Some(found) = status::status(&self.operator).await? {
                each(&found);
                if is(&found) {
                    return Ok(found);
                }
                last = status::unrest(&found);
            }
            self.scheduler_lives()?;
            if begun.elapsed() > deadline {
                let log = self.scheduler.as_ref().map(|scheduler| tail(&scheduler.log)).unwrap_or_default();
                let seconds = deadline.as_secs();
                return Err(DemoError::new(format!("{doing}: not within {seconds} s: {last}\n{log}")));
            }
            sleep(LOOK).await;
        }
    }

    /// An error if a process has ended by itself.
    pub(crate) fn scheduler_lives(&mut self) -> Result<(), DemoError> {
        if let Some(scheduler) = &mut self.scheduler
            && let Ok(Some(code)) = scheduler.child.try_wait()
        {
            return Err(DemoError::new(format!("the scheduler has ended ({code}):\n{}", tail(&scheduler.log))));
        }
        for server in &mut self.servers {
            if let Ok(Some(code)) = server.child.try_wait() {
                let log = tail(&self.directory.file(&format!("server-{}.log", server.id)));
                return Err(DemoError::new(format!("simulated server {} has ended ({code}):\n{log}", server.id)));
            }
        }
        Ok(())
    }

    /// The end of the scheduler's log.
    pub(crate) fn scheduler_log(&self) -> String {
        self.scheduler.as_ref().map(|scheduler| tail(&scheduler.log)).unwrap_or_default()
    }

    /// Ends every process and removes every file.
    pub(crate) async fn strike(mut self) -> Result<(), DemoError> {
        self.kill_scheduler().await?;
        for server in &mut self.servers {
            let killed = server.child.kill().await;
            killed.map_err(|error| DemoError::new(format!("server {} could not be killed: {error}", server.id)))?;
        }
        Ok(())
    }
}

async fn start_server(id: u32, seed: u64, directory: &Directory) -> Result<Server, DemoError> {
    let failed = |error: &dyn std::fmt::Display| DemoError::new(format!("simulated server {id}: {error}"));
    let control = directory.file(&format!("server-{id}.sock"));
    let log = directory.file(&format!("server-{id}.log"));
    let name = format!("demo server {id}");
    let mut command = program()?;
    command.arg("simulate").args(["--server-id", &id.to_string(), "--domain-id", &DOMAIN.to_string()]);
    command.args(["--name", &name, "--seed", &seed.wrapping_add(u64::from(id)).to_string()]);
    command.arg("--control").arg(&control);
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
    let control = ControlClient::connect(&control).await?;
    Ok(Server { id: ServerId(id), control, address, name, child, _out: out })
}

/// This very program. Its processes die with the demo, and read nothing from its input.
fn program() -> Result<Command, DemoError> {
    let path = std::env::current_exe();
    let path = path.map_err(|error| DemoError::new(format!("the program does not find itself: {error}")))?;
    let mut command = Command::new(path);
    // What surrounds the demo must not configure its scheduler.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("REMEET_") || name_text == "NOTIFY_SOCKET" || name_text == "CREDENTIALS_DIRECTORY" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

fn log_file(path: &Path) -> Result<File, DemoError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| DemoError::new(format!("{}: {error}", path.display())))
}

/// The end of a log.
fn tail(path: &Path) -> String {
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

/// Milliseconds since 1970 UTC.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
