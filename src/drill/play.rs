//! The order of the drill, and the cleaning up after it, however it ends.

use super::cycle::{Drill, QUIET};
use super::fates::Fates;
use super::flow::{Room, Seat};
use super::gate::Gate;
use super::options::{DrillKind, Options};
use super::oracle::Oracle;
use super::verdict::Tally;
use crate::cms::client::{Client, ClientSettings};
use crate::stage::backing::Backing;
use crate::stage::directory::Directory;
use crate::stage::progress::Progress;
use crate::stage::{Setting, Stage, StageError, say, status, with_backing};
use futures_util::future::join_all;
use remeet_protocol::wire::Text;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Meeting clients; each commands a third of the meetings.
const CLIENTS: u32 = 3;
/// The lease of a pair: short, so that a standby takes over within two seconds.
const LEASE: Duration = Duration::from_millis(1_500);
/// Lines of each log that are shown with a difference.
const LOG_LINES: usize = 60;

/// Plays the drill; whatever it made is gone when this returns. The tally has what was done until then.
pub(crate) async fn play(options: &Options, seed: u64, tally: &mut Tally) -> Result<(), StageError> {
    let progress = Progress::new();
    if let Some(logs) = &options.logs {
        let made = std::fs::create_dir_all(logs);
        made.map_err(|error| StageError::new(format!("--logs {}: {error}", logs.display())))?;
    }
    let play = async |backing: &Backing, directory| on_stage(options, seed, &progress, backing, directory, tally).await;
    with_backing("drill", &options.stores, play).await
}

async fn on_stage(
    options: &Options,
    seed: u64,
    progress: &Progress,
    backing: &Backing,
    directory: Directory,
    tally: &mut Tally,
) -> Result<(), StageError> {
    let (nodes, lease) = match options.kind {
        DrillKind::Crash => (vec!["scheduler"], None),
        DrillKind::Pause => (vec!["first", "second"], Some(LEASE)),
    };
    let setting = Setting {
        word: "drill",
        servers: options.servers,
        seed,
        clients: CLIENTS,
        nodes,
        lease,
        logs: options.logs.clone(),
    };
    progress.note(&format!(
        "{:?}: cycles {} to {}, {} servers, {} meetings, {CLIENTS} clients, seed {seed}; {}",
        options.kind,
        options.first_cycle,
        last_cycle(options),
        options.servers,
        options.meetings,
        backing.name()
    ));
    let mut stage = Stage::set(&setting, backing, directory).await?;
    let mut cycle = options.first_cycle;
    let played = Box::pin(through(options, seed, progress, backing, &mut stage, tally, &mut cycle)).await;
    if played.is_err() || !tally.ok() {
        let kind = match options.kind {
            DrillKind::Crash => "crash",
            DrillKind::Pause => "pause",
        };
        let repeat = format!(
            "cycle {cycle} of seed {seed}; to repeat: scripts/crash-loop --kind {kind} --servers {} --meetings {} \
             --terminals {} --seed {seed} --first-cycle {cycle} --cycles 1 (or more from an earlier cycle: what earlier \
             cycles left behind may matter)",
            options.servers, options.meetings, options.terminals
        );
        for scheduler in &stage.schedulers {
            let log = scheduler.log_tail();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            progress.note(&format!("the end of the log of {}:\n{last}", scheduler.name));
        }
        say(&mut std::io::stdout(), &repeat);
    }
    let struck = stage.strike().await;
    played.and(struck)
}

fn last_cycle(options: &Options) -> u32 {
    options.first_cycle.saturating_add(options.cycles - 1)
}

async fn through(
    options: &Options,
    seed: u64,
    progress: &Progress,
    backing: &Backing,
    stage: &mut Stage,
    tally: &mut Tally,
    cycle: &mut u32,
) -> Result<(), StageError> {
    stage.schedulers[0].start()?;
    stage.status_when(0, "the first start", QUIET, |_| {}, status::is_quiet).await?;
    let gate = match options.kind {
        DrillKind::Crash => None,
        DrillKind::Pause => Some(Gate::open(stage.schedulers[0].clients_at).await?),
    };
    let address = gate.as_ref().map_or(stage.schedulers[0].clients_at, |gate| gate.address);
    let clients = connect(address, &stage.client_names).await?;
    let room = Room {
        clients: clients.clone(),
        fates: Arc::new(Fates::default()),
        servers: options.servers,
        terminals_max: options.terminals.into(),
        seed,
    };
    let mut drill = Drill {
        stage,
        backing,
        room: Arc::new(room),
        seats: Seat::all(options.meetings),
        oracle: Oracle::default(),
        tally,
        began_at_ms: 0,
        active: 0,
        gate,
    };
    if options.kind == DrillKind::Pause {
        drill.stage.schedulers[1].start()?;
        drill.stands_by(1).await?;
    }
    drill.move_in().await?;
    progress.note("servers, schedulers, clients and meetings are up");
    for number in options.first_cycle..=last_cycle(options) {
        *cycle = number;
        match options.kind {
            DrillKind::Crash => Box::pin(drill.crash(number)).await?,
            DrillKind::Pause => Box::pin(drill.pause(number)).await?,
        }
        if options.plant_difference && number == last_cycle(options) {
            let planted = backing.database.plant_difference().await?;
            progress.note(&format!("a difference is planted: {planted}"));
        }
        let differences = Box::pin(drill.judge()).await?;
        drill.tally.cycles += 1;
        progress.at(drill.tally.cycles.into(), options.cycles.into(), "cycles");
        if !differences.is_empty() {
            drill.tally.differences += differences.len() as u64;
            let lines: String = differences.iter().map(|difference| format!("\n  {difference}")).collect();
            say(
                &mut std::io::stdout(),
                &format!("cycle {number}, seed {seed}: {} differences{lines}", differences.len()),
            );
            // What follows would only be the same again.
            break;
        }
    }
    join_all(clients.iter().map(Client::close)).await;
    Ok(())
}

async fn connect(address: SocketAddr, names: &[(u32, String)]) -> Result<Vec<Client>, StageError> {
    let mut clients = Vec::new();
    for (id, name) in names {
        let mut settings = ClientSettings::new(address, *id, Text::cut(name));
        // The scheduler is on the same machine: its clients look for it soon.
        settings.reconnect_first = Duration::from_millis(20);
        settings.reconnect_max = Duration::from_millis(100);
        let connected = Client::connect(settings).await;
        clients.push(connected.map_err(|error| StageError::new(format!("{name}: {error}")))?);
    }
    Ok(clients)
}
