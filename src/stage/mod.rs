//! What the demo and the drill are played on: real processes on real sockets, and an independent reader.
//!
//! - `server` – simulated autonomous servers; `scheduler` – `remeet run`; both by way of `process`.
//! - [`backing`] – store and cache, embedded or on real servers; [`directory`] – files and sockets.
//! - [`status`] – the operator's socket; [`reader`] – compares sinks with each server's truth.
//! - [`meetings`] – meetings as clients create them; [`progress`] – what a person sees meanwhile.

pub(crate) mod backing;
pub(crate) mod directory;
pub(crate) mod meetings;
mod process;
pub(crate) mod progress;
pub(crate) mod reader;
mod scheduler;
mod server;
pub(crate) mod status;
mod stores;

pub(crate) use process::now_ms;
pub(crate) use scheduler::Scheduler;
pub(crate) use server::Server;
pub(crate) use stores::Stores;

use crate::ops::status::Status;
use crate::simulator::{Dump, Stats};
use backing::Backing;
use directory::Directory;
use futures_util::future::try_join_all;
use reader::compare::{Expected, Findings, compare};
use remeet_protocol::ServerId;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

/// The domain of everything that is played.
pub(crate) const DOMAIN: u32 = 1;
/// Between two looks at a condition that nobody announces.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// A look at a large scheduler takes a while: it may have this part of its time at most, one in so many.
const LOOKS: u32 = 20;
/// The longest between two looks all the same.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Why a play could not be brought to its end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StageError(pub(crate) String);

impl StageError {
    pub(crate) fn new(text: impl ToString) -> Self {
        Self(text.to_string())
    }
}

impl From<reader::ReadError> for StageError {
    fn from(error: reader::ReadError) -> Self {
        Self::new(error)
    }
}

impl From<crate::simulator::client::ControlError> for StageError {
    fn from(error: crate::simulator::client::ControlError) -> Self {
        Self::new(error)
    }
}

/// What a stage is made of.
pub(crate) struct Setting {
    /// Names everything: `demo`, `drill`.
    pub(crate) word: &'static str,
    /// Simulated servers, with ids from 1.
    pub(crate) servers: u32,
    /// Drives the servers' own choices.
    pub(crate) seed: u64,
    /// Clients in the schedulers' configuration, with ids from 1.
    pub(crate) clients: u32,
    /// Schedulers, by name; none is started.
    pub(crate) nodes: Vec<&'static str>,
    /// The schedulers' lease, if not the default.
    pub(crate) lease: Option<Duration>,
    /// Where logs are kept, if not in the directory that goes with the play.
    pub(crate) logs: Option<PathBuf>,
}

impl Setting {
    /// One scheduler, which needs no lease shorter than the usual one, and no logs kept.
    pub(crate) fn of_one(word: &'static str, servers: u32, seed: u64, clients: u32) -> Self {
        Self { word, servers, seed, clients, nodes: vec!["scheduler"], lease: None, logs: None }
    }
}

#[derive(Deserialize)]
struct ServerState {
    legs_live: u64,
    events_waiting: u64,
}

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) servers: Vec<Server>,
    pub(crate) schedulers: Vec<Scheduler>,
    pub(crate) client_names: Vec<(u32, String)>,
    _directory: Directory,
}

impl Stage {
    /// Starts the servers and writes the schedulers' configurations.
    pub(crate) async fn set(setting: &Setting, backing: &Backing, directory: Directory) -> Result<Self, StageError> {
        let logs = setting.logs.clone().unwrap_or_else(|| directory.path().to_owned());
        let mut servers = Vec::new();
        for id in 1..=setting.servers {
            servers.push(Server::start(id, setting, &directory, &logs).await?);
        }
        let client_names: Vec<_> =
            (1..=setting.clients).map(|id| (id, format!("{} client {id}", setting.word))).collect();
        let each = setting.nodes.iter();
        let schedulers = each.map(|name| {
            let parts = scheduler::Parts { setting, backing, servers: &servers, clients: &client_names };
            Scheduler::set(name, &parts, &directory, &logs)
        });
        let schedulers = schedulers.collect::<Result<_, _>>()?;
        Ok(Self { servers, schedulers, client_names, _directory: directory })
    }

    /// A scheduler's status, once `is` holds. `doing` names the wait; `each` sees every status.
    pub(crate) async fn status_when(
        &mut self,
        place: usize,
        doing: &str,
        deadline: Duration,
        mut each: impl FnMut(&Status),
        mut is: impl FnMut(&Status) -> bool,
    ) -> Result<Status, StageError> {
        let begun = Instant::now();
        let mut last = "it has not answered at its operator's socket".to_owned();
        loop {
            let asked = Instant::now();
            if let Some(found) = status::status(&self.schedulers[place].operator).await? {
                each(&found);
                if is(&found) {
                    return Ok(found);
                }
                last = status::unrest(&found);
            }
            self.all_live()?;
            if begun.elapsed() > deadline {
                return Err(StageError::new(format!("{doing}: not within {} s: {last}", deadline.as_secs())));
            }
            sleep((asked.elapsed() * LOOKS).clamp(LOOK, LOOK_MAX)).await;
        }
    }

    /// Waits until nothing moves: the scheduler is quiet and no server has an event that is not acknowledged, and it
    /// is still so at a second look.
    pub(crate) async fn settled(
        &mut self,
        place: usize,
        doing: &str,
        deadline: Duration,
    ) -> Result<Status, StageError> {
        let begun = Instant::now();
        let mut looks = 0;
        loop {
            let status = self.status_when(place, doing, deadline, |_| {}, status::is_quiet).await?;
            let waiting: u64 = self.server_states().await?.iter().map(|(_, state)| state.events_waiting).sum();
            looks = if waiting == 0 { looks + 1 } else { 0 };
            if looks == 2 {
                return Ok(status);
            }
            if begun.elapsed() > deadline {
                let text = format!("{doing}: {waiting} events are not acknowledged after {} s", deadline.as_secs());
                return Err(StageError::new(text));
            }
            sleep(LOOK).await;
        }
    }

    /// Live legs of each server, by its own account.
    pub(crate) async fn live_legs(&mut self) -> Result<BTreeMap<ServerId, u64>, StageError> {
        Ok(self.server_states().await?.into_iter().map(|(id, state)| (id, state.legs_live)).collect())
    }

    /// The servers' counters.
    pub(crate) async fn stats(&mut self) -> Result<BTreeMap<ServerId, Stats>, StageError> {
        let asked = try_join_all(self.servers.iter_mut().map(|server| async {
            let stats = server.control.stats().await?;
            Ok::<_, StageError>((server.id, stats))
        }));
        Ok(asked.await?.into_iter().collect())
    }

    /// The servers' truth.
    pub(crate) async fn truth(&mut self) -> Result<Vec<Dump>, StageError> {
        Ok(try_join_all(self.servers.iter_mut().map(|server| server.control.dump())).await?)
    }

    /// Compares the servers' truth with database and cache.
    pub(crate) async fn compare(
        &mut self,
        place: usize,
        backing: &Backing,
        expected: Expected,
    ) -> Result<Findings, StageError> {
        let truth = self.truth().await?;
        let (database, cached) = tokio::try_join!(
            async { backing.database.read().await.map_err(StageError::from) },
            backing.cached(&self.schedulers[place].operator),
        )?;
        // Seconds of work for a large network: not on a thread that clients need.
        let compared = tokio::task::spawn_blocking(move || compare(&truth, &database, &cached, &expected));
        compared.await.map_err(StageError::new)
    }

    async fn server_states(&mut self) -> Result<Vec<(ServerId, ServerState)>, StageError> {
        try_join_all(self.servers.iter_mut().map(|server| async {
            let state = server.control.ask(&crate::simulator::Request::Status).await?;
            Ok::<_, StageError>((server.id, state))
        }))
        .await
    }

    /// An error if a process has ended by itself.
    pub(crate) fn all_live(&mut self) -> Result<(), StageError> {
        self.schedulers.iter_mut().try_for_each(Scheduler::lives)?;
        self.servers.iter_mut().try_for_each(Server::lives)
    }

    /// The ends of the schedulers' logs.
    pub(crate) fn logs(&self) -> String {
        let each = self.schedulers.iter();
        each.map(|scheduler| format!("{}:\n{}\n", scheduler.name, scheduler.log_tail())).collect()
    }

    /// Ends every process; the files go with the stage.
    pub(crate) async fn strike(mut self) -> Result<(), StageError> {
        for scheduler in &mut self.schedulers {
            scheduler.kill().await?;
        }
        for server in &mut self.servers {
            server.kill().await?;
        }
        Ok(())
    }
}

/// Makes a directory and the stores, and plays; whatever was made is gone when this returns, also after an error or a
/// signal. `word` names everything.
pub(crate) async fn with_backing<T>(
    word: &'static str,
    stores: &Stores,
    play: impl AsyncFnOnce(&Backing, Directory) -> Result<T, StageError>,
) -> Result<T, StageError> {
    let directory = Directory::make(word)?;
    let mut backing = Backing::open(stores, &directory).await?;
    let played = tokio::select! {
        played = Box::pin(play(&backing, directory)) => played,
        // Dropping the stage kills its processes and removes its files.
        name = interrupted() => Err(StageError::new(format!("ended by {name}"))),
    };
    match (played, backing.close().await) {
        (Ok(played), Ok(())) => Ok(played),
        (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
        (Err(error), Err(closing)) => Err(StageError::new(format!("{error}; and {closing}"))),
    }
}

/// A part of a whole, as an argument.
pub(crate) fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("give a fraction from 0 to 1, such as 0.25".to_owned()),
    }
}

/// Whichever signal asks this program to end.
async fn interrupted() -> &'static str {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            // Without a handler the system's default ends the process.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => "an interrupt",
        () = wait(SignalKind::terminate()) => "SIGTERM",
        () = wait(SignalKind::hangup()) => "SIGHUP",
    }
}

/// A line for whoever still reads.
pub(crate) fn say(out: &mut impl Write, text: &str) {
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
