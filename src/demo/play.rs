//! The order of the play, and the cleaning up after it, however it ends.

use super::backing::Backing;
use super::clients::Crew;
use super::directory::Directory;
use super::population::Population;
use super::progress::Progress;
use super::reader::compare::{Expected, Findings, compare};
use super::stage::{LOOK, Stage};
use super::troubles::Troubles;
use super::verdict::{Act, Verdict};
use super::{DemoError, Options, acts, say, status, table};
use crate::ops::status::Status;
use crate::simulator::Stats;
use futures_util::future::try_join_all;
use remeet_protocol::{Epoch, LegId, ServerId};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

/// Everything is stored and acknowledged this long after it happened: rule 18, twice over.
pub(crate) const QUIET: Duration = Duration::from_secs(60);
/// A difference is reported once two readings in a row agree on it, at the latest after this.
const READINGS: Duration = Duration::from_secs(10);

/// What the acts share.
pub(crate) struct Play<'a> {
    pub(crate) options: &'a Options,
    pub(crate) progress: &'a Progress,
    pub(crate) backing: &'a Backing,
    pub(crate) stage: &'a mut Stage,
    pub(crate) crew: &'a Crew,
    pub(crate) population: Population,
    pub(crate) orphans: BTreeSet<LegId>,
    pub(crate) acts: Vec<Act>,
    pub(crate) problems: Vec<String>,
}

/// Plays the demo; whatever it made is gone when this returns.
pub(crate) async fn play(options: &Options) -> Result<Verdict, DemoError> {
    let progress = Progress::new();
    let directory = Directory::make()?;
    let mut backing = Backing::open(options, &directory).await?;
    let played = tokio::select! {
        played = Box::pin(on_stage(options, &progress, &backing, directory)) => played,
        // Dropping the stage kills its processes and removes its files.
        name = interrupted() => Err(DemoError::new(format!("ended by {name}"))),
    };
    match (played, backing.close().await) {
        (Ok(verdict), Ok(())) => Ok(verdict),
        (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
        (Err(error), Err(closing)) => Err(DemoError::new(format!("{error}; and {closing}"))),
    }
}

async fn on_stage(
    options: &Options,
    progress: &Progress,
    backing: &Backing,
    directory: Directory,
) -> Result<Verdict, DemoError> {
    // A client has 128 commands in flight: 4 fill a small network, 8 a large one.
    let clients = if options.meetings < 1_000 { 4 } else { 8 };
    progress.note(&format!(
        "{} servers, {} meetings, {} terminals each, {clients} clients, seed {}; {}",
        options.servers,
        options.meetings,
        options.terminals,
        options.seed,
        backing.name()
    ));
    let mut stage = Stage::set(options, clients, backing, directory).await?;
    let played = Box::pin(through(options, progress, backing, &mut stage, clients)).await;
    if played.as_ref().map_or(true, |verdict| !verdict.ok) {
        progress.note(&format!("the end of the scheduler's log:\n{}", stage.scheduler_log()));
    }
    let struck = stage.strike().await;
    let verdict = played?;
    struck.map(|()| verdict)
}

async fn through(
    options: &Options,
    progress: &Progress,
    backing: &Backing,
    stage: &mut Stage,
    clients: u32,
) -> Result<Verdict, DemoError> {
    stage.start_scheduler()?;
    let first = stage.status_when("the first start", QUIET, |_| {}, status::is_quiet).await?;
    let crew = Crew::connect(stage).await?;
    progress.note(&format!("scheduler and clients are up, term {}", epoch(&first)));

    let mut population = Population::plan(options, clients);
    let mut troubles = Troubles::cast(&mut population, stage)?;
    let begun = Instant::now();
    let commands = population.move_in(options, &crew, &troubles.unstarted(), progress).await?;
    progress.note(&format!("{commands} commands of clients in {:.1} s", begun.elapsed().as_secs_f64()));

    let mut play = Play {
        options,
        progress,
        backing,
        stage,
        crew: &crew,
        population,
        orphans: BTreeSet::new(),
        acts: Vec::new(),
        problems: Vec::new(),
    };
    play.settled("everything is stored").await?;
    acts::restart(&mut play, &mut troubles).await?;
    acts::link_restored(&mut play).await?;
    let verdict = Verdict::new(play.acts, play.problems);
    crew.close().await;
    Ok(verdict)
}

/// The present term.
pub(crate) fn epoch(status: &Status) -> Epoch {
    status.term.map(|term| term.epoch).unwrap_or_default()
}

#[derive(Deserialize)]
struct ServerState {
    legs_live: u64,
    events_waiting: u64,
}

impl Play<'_> {
    /// Live legs of each server, by its own account.
    pub(crate) async fn live_legs(&mut self) -> Result<BTreeMap<ServerId, u64>, DemoError> {
        Ok(self.server_states().await?.into_iter().map(|(id, state)| (id, state.legs_live)).collect())
    }

    async fn server_states(&mut self) -> Result<Vec<(ServerId, ServerState)>, DemoError> {
        try_join_all(self.stage.servers.iter_mut().map(|server| async {
            let state = server.control.ask(&crate::simulator::Request::Status).await?;
            Ok::<_, DemoError>((server.id, state))
        }))
        .await
    }

    pub(crate) async fn stats(&mut self) -> Result<BTreeMap<ServerId, Stats>, DemoError> {
        let asked = try_join_all(self.stage.servers.iter_mut().map(|server| async {
            let stats = server.control.stats().await?;
            Ok::<_, DemoError>((server.id, stats))
        }));
        Ok(asked.await?.into_iter().collect())
    }

    /// Waits until nothing moves: the scheduler is quiet and no server has an event that is not
    /// acknowledged, and it is still so at a second look.
    pub(crate) async fn settled(&mut self, doing: &str) -> Result<Status, DemoError> {
        let begun = Instant::now();
        let mut looks = 0;
        loop {
            let status = self.stage.status_when(doing, QUIET, |_| {}, status::is_quiet).await?;
            let waiting: u64 = self.server_states().await?.iter().map(|(_, state)| state.events_waiting).sum();
            looks = if waiting == 0 { looks + 1 } else { 0 };
            if looks == 2 {
                return Ok(status);
            }
            if begun.elapsed() > QUIET {
                let text = format!("{doing}: {waiting} events are not acknowledged after {} s", QUIET.as_secs());
                return Err(DemoError::new(text));
            }
            sleep(LOOK).await;
        }
    }

    /// Compares everything. A difference counts if a second reading finds it too.
    pub(crate) async fn compare(&mut self, epoch: Epoch) -> Result<Findings, DemoError> {
        self.progress.step("the independent reader compares every field");
        let begun = Instant::now();
        let mut before = self.read_and_compare(epoch).await?;
        while before.total > 0 && begun.elapsed() < READINGS {
            self.settled("a second reading").await?;
            let findings = self.read_and_compare(epoch).await?;
            if findings == before {
                break;
            }
            self.progress.note(&format!(
                "a reading found {} differences, the next one {}: something was still on its way",
                before.total, findings.total
            ));
            before = findings;
        }
        Ok(before)
    }

    async fn read_and_compare(&mut self, epoch: Epoch) -> Result<Findings, DemoError> {
        let truth = try_join_all(self.stage.servers.iter_mut().map(|server| server.control.dump())).await?;
        let (database, cached) = tokio::try_join!(
            async { self.backing.database.read().await.map_err(DemoError::from) },
            self.backing.cached(&self.stage.operator),
        )?;
        let mut expected = Expected { epoch, orphans: self.orphans.clone(), ..Expected::default() };
        for meeting in &self.population.meetings {
            match meeting.ended {
                None => {
                    expected.live.insert(meeting.leg());
                }
                Some(cause) => {
                    expected.ended.insert(meeting.leg(), cause);
                }
            }
        }
        // Seconds of work for a large network: not on a thread that clients need.
        let compared = tokio::task::spawn_blocking(move || compare(&truth, &database, &cached, &expected));
        compared.await.map_err(DemoError::new)
    }

    /// Prints an act's table and differences, and keeps what was not as expected.
    pub(crate) async fn tell(
        &mut self,
        act: Act,
        status: &Status,
        findings: &Findings,
        problems: Vec<String>,
    ) -> Result<(), DemoError> {
        let stats = self.stats().await?;
        let name = act.act.words();
        let mut text = format!("\nAct {name}\n{}\n", table::servers(status, findings, &stats));
        text.push_str(&format!(
            "live {}: recovered {}, orphans {}, ended {}, pending {}; vanished {}; keys: {} from the database, {} from \
             the cache; in control after {} ms, back-filled after {} ms; term {}; clients: {} connected, {} lost; {} \
             legs and {} records compared, {} differences",
            act.meetings_live,
            act.recovered,
            act.orphans,
            act.ended,
            act.pending,
            act.vanished,
            act.keys_from_database,
            act.keys_from_cache,
            act.in_control_ms,
            act.backfilled_ms,
            act.epoch,
            act.clients_connected,
            act.clients_lost,
            findings.legs.values().sum::<u64>(),
            findings.records.values().sum::<u64>(),
            findings.total
        ));
        for difference in &findings.shown {
            text.push_str(&format!("\n  {difference}"));
        }
        if findings.total > findings.shown.len() as u64 {
            text.push_str(&format!("\n  … and {} more", findings.total - findings.shown.len() as u64));
        }
        say(&mut std::io::stdout(), &text);
        let stale: u64 = stats.values().map(|stats| stats.stale_executed).sum();
        if stale > 0 {
            self.problems.push(format!("act {name}: {stale} commands were executed for a stale token (rules 2 and 3)"));
        }
        self.problems.extend(problems.into_iter().map(|problem| format!("act {name}: {problem}")));
        self.acts.push(act);
        Ok(())
    }
}

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
