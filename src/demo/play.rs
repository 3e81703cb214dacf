//! The order of the play, and the cleaning up after it, however it ends.

use super::clients::Crew;
use super::population::Population;
use super::troubles::Troubles;
use super::verdict::{Act, Verdict};
use super::{Options, acts, table};
use crate::ops::status::Status;
use crate::simulator::Stats;
use crate::stage::backing::Backing;
use crate::stage::directory::Directory;
use crate::stage::progress::Progress;
use crate::stage::reader::compare::{Expected, Findings};
use crate::stage::{Setting, Stage, StageError, say, status, with_backing};
use remeet_protocol::{Epoch, LegId, ServerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

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
pub(crate) async fn play(options: &Options) -> Result<Verdict, StageError> {
    let progress = Progress::new();
    let play = async |backing: &Backing, directory| on_stage(options, &progress, backing, directory).await;
    with_backing("demo", &options.stores, play).await
}

async fn on_stage(
    options: &Options,
    progress: &Progress,
    backing: &Backing,
    directory: Directory,
) -> Result<Verdict, StageError> {
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
    let setting = Setting::of_one("demo", options.servers, options.seed, clients);
    let mut stage = Stage::set(&setting, backing, directory).await?;
    let played = Box::pin(through(options, progress, backing, &mut stage, clients)).await;
    if played.as_ref().map_or(true, |verdict| !verdict.ok) {
        progress.note(&format!("the end of the scheduler's log:\n{}", stage.logs()));
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
) -> Result<Verdict, StageError> {
    stage.schedulers[0].start()?;
    let first = stage.status_when(0, "the first start", QUIET, |_| {}, status::is_quiet).await?;
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

impl Play<'_> {
    /// Live legs of each server, by its own account.
    pub(crate) async fn live_legs(&mut self) -> Result<BTreeMap<ServerId, u64>, StageError> {
        self.stage.live_legs().await
    }

    pub(crate) async fn stats(&mut self) -> Result<BTreeMap<ServerId, Stats>, StageError> {
        self.stage.stats().await
    }

    /// Waits until nothing moves.
    pub(crate) async fn settled(&mut self, doing: &str) -> Result<Status, StageError> {
        self.stage.settled(0, doing, QUIET).await
    }

    /// Compares everything. A difference counts if a second reading finds it too.
    pub(crate) async fn compare(&mut self, epoch: Epoch) -> Result<Findings, StageError> {
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

    async fn read_and_compare(&mut self, epoch: Epoch) -> Result<Findings, StageError> {
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
        self.stage.compare(0, self.backing, expected).await
    }

    /// Prints an act's table and differences, and keeps what was not as expected.
    pub(crate) async fn tell(
        &mut self,
        act: Act,
        status: &Status,
        findings: &Findings,
        problems: Vec<String>,
    ) -> Result<(), StageError> {
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
