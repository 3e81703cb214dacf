//! The recovery bench: fill, start, and then kill, change, start and measure, as often as asked.

use super::fill::{Population, fill};
use super::floor::{Load, floor};
use super::ground::{PATIENCE, set, strike, until_quiet};
use super::options::Recovery;
use super::verdict::{Verdict, median};
use crate::ops::status::{Status, Trigger};
use crate::simulator::{Request, Script};
use crate::stage::backing::Backing;
use crate::stage::directory::Directory;
use crate::stage::progress::Progress;
use crate::stage::reader::compare::Expected;
use crate::stage::{Stage, StageError, say, status, with_backing};
use remeet_protocol::{Epoch, ServerId};
use std::collections::BTreeSet;

/// Records of a leg beside its terminals, as they are filled: the leg's own, a window and an entry.
const BESIDE_TERMINALS: usize = 3;

/// Runs it. Says whether everything was recovered and nothing differs.
pub(super) async fn run(options: &Recovery) -> Result<bool, StageError> {
    options.check().map_err(StageError::new)?;
    let progress = Progress::new();
    let play = async |backing: &Backing, directory| on_stage(options, &progress, backing, directory).await;
    let runs = with_backing("bench", &options.network.stores, play).await?;
    let out = &mut std::io::stdout();
    for run in &runs {
        say(out, &run.sentence());
        if options.json {
            say(out, &run.json());
        }
    }
    if let (Some(run), true) = (median(&runs), options.json && runs.len() > 1) {
        say(out, &run.json());
    }
    Ok(runs.iter().all(|run| run.differences == 0))
}

async fn on_stage(
    options: &Recovery,
    progress: &Progress,
    backing: &Backing,
    directory: Directory,
) -> Result<Vec<Verdict>, StageError> {
    let mut stage = set(&options.network, 1, progress, backing, directory).await?;
    let population = fill(&options.network, &mut stage, backing, progress).await?;
    let mut bench = Bench { options, progress, backing, stage: &mut stage, population };
    let runs = bench.runs().await;
    strike(stage, progress, runs).await
}

struct Bench<'a> {
    options: &'a Recovery,
    progress: &'a Progress,
    backing: &'a Backing,
    stage: &'a mut Stage,
    population: Population,
}

impl Bench<'_> {
    async fn runs(&mut self) -> Result<Vec<Verdict>, StageError> {
        self.backing.database.tidy().await?;
        self.progress.step("a first start compares everything and fills the cache");
        let first = self.start(&BTreeSet::new()).await?;
        self.progress.note(&format!("at the first start, with an empty cache: {}", first.sentence()));
        let mut runs = Vec::new();
        for run in 1..=self.options.runs {
            self.progress.step(&format!("run {run} of {}", self.options.runs));
            let verdict = self.run(run).await?;
            self.progress.note(&verdict.sentence());
            runs.push(verdict);
        }
        let differences = self.compare().await?;
        self.stage.schedulers[0].kill().await?;
        for run in &mut runs {
            self.progress.step("the same by the plainest means");
            self.backing.database.tidy().await?;
            let whole = self.options.cache_wiped.then_some(self.options.network.terminals as usize + BESIDE_TERMINALS);
            let load = Load::new(&self.population, self.options.hung, self.options.changed, run.changes, whole);
            let floor_ms = u64::try_from(floor(&load, self.backing).await?.as_millis()).unwrap_or(u64::MAX);
            run.measured(floor_ms, differences);
            self.progress.note(&format!("the floor: {floor_ms} ms"));
        }
        Ok(runs)
    }

    /// One kill, the changes, and one start.
    async fn run(&mut self, run: u32) -> Result<Verdict, StageError> {
        self.stage.schedulers[0].kill().await?;
        let changes = self.change(run).await?;
        if self.options.cache_wiped {
            self.backing.empty_cache().await?;
        }
        self.backing.database.tidy().await?;
        let hung: BTreeSet<ServerId> =
            self.stage.servers.iter().rev().take(self.options.hung as usize).map(|server| server.id).collect();
        self.hang(&hung, true).await?;
        let verdict = self.start(&hung).await?;
        self.hang(&hung, false).await?;
        if !hung.is_empty() {
            self.until_quiet(&BTreeSet::new()).await?;
        }
        Ok(Verdict { changes, changed: self.options.changed, ..verdict })
    }

    async fn hang(&mut self, hung: &BTreeSet<ServerId>, on: bool) -> Result<(), StageError> {
        for server in self.stage.servers.iter_mut().filter(|server| hung.contains(&server.id)) {
            server.control.call(&Request::Hang { on }).await?;
        }
        Ok(())
    }

    /// Meetings change while nobody commands. Answers how many records did.
    async fn change(&mut self, run: u32) -> Result<u64, StageError> {
        if self.options.changed == 0.0 {
            return Ok(0);
        }
        let mut changes = 0;
        for server in &mut self.stage.servers {
            let seed = self.options.network.seed.wrapping_add(u64::from(run) << 32);
            let script = Script { seed, fraction: self.options.changed, meetings: None, kinds: Vec::new() };
            let changed = server.control.change(script).await?;
            changes += changed.iter().map(|leg| leg.mark.revision - leg.previous).sum::<u64>();
        }
        Ok(changes)
    }

    /// Starts the scheduler and waits until it has everything, but for the servers that hang.
    async fn start(&mut self, hung: &BTreeSet<ServerId>) -> Result<Verdict, StageError> {
        let spawned_at_ms = self.stage.schedulers[0].start()?;
        let quiet = self.until_quiet(hung).await?;
        let round = status::round(&quiet, Trigger::Restart);
        let round = round.ok_or_else(|| StageError::new("the status has no round of the restart"))?;
        let legs = self.answering(hung);
        if round.recovered != legs {
            let text = format!("{} of {legs} meetings were recovered, {} pending", round.recovered, round.pending);
            return Err(StageError::new(text));
        }
        let since = |at_ms: Option<u64>| at_ms.unwrap_or_default().saturating_sub(spawned_at_ms);
        let in_control_ms = since(round.in_control_at_ms);
        let counter = |name: &str| quiet.counters.get(name).copied().unwrap_or_default();
        let memory = self.memory()?;
        Ok(Verdict {
            meetings: legs,
            terminals: legs * u64::from(self.options.network.terminals),
            servers: self.options.network.servers,
            hung: u32::try_from(hung.len()).unwrap_or(u32::MAX),
            in_control_ms,
            in_control_p99_ms: since(round.in_control_p99_at_ms),
            // What events told is written beside the round: until nothing was left to be written.
            backfilled_ms: since(round.backfilled_at_ms.max(quiet.store.idle_since_ms).max(quiet.cache.idle_since_ms)),
            meetings_per_s: legs * 1_000 / in_control_ms.max(1),
            rows_written: counter("rows_written"),
            records_read: counter("records_read"),
            rss_mib: memory[0],
            rss_peak_mib: memory[1],
            ..Verdict::default()
        })
    }

    fn answering(&self, hung: &BTreeSet<ServerId>) -> u64 {
        let answer = self.population.legs.iter().filter(|(server, _)| !hung.contains(server));
        answer.map(|(_, legs)| legs.len() as u64).sum()
    }

    async fn until_quiet(&mut self, hung: &BTreeSet<ServerId>) -> Result<Status, StageError> {
        until_quiet(self.stage, self.progress, self.answering(hung), hung).await
    }

    /// Resident memory of the scheduler's process, now and at most so far: MiB.
    fn memory(&self) -> Result<[u64; 2], StageError> {
        let pid = self.stage.schedulers[0].pid().ok_or_else(|| StageError::new("the scheduler does not run"))?;
        let read = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let text = read.map_err(|error| StageError::new(format!("the scheduler's memory: {error}")))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let kib = |name: &str| field(name).ok_or_else(|| StageError::new(format!("/proc/{pid}/status has no {name}")));
        Ok([kib("VmRSS:")?.div_ceil(1024), kib("VmHWM:")?.div_ceil(1024)])
    }

    /// Every field of every meeting.
    async fn compare(&mut self) -> Result<u64, StageError> {
        self.progress.step("the independent reader compares every field");
        let settled = self.stage.settled(0, "the end", PATIENCE).await?;
        let epoch = settled.term.map_or(Epoch(0), |term| term.epoch);
        let live = self.population.legs.iter().flat_map(|(_, legs)| legs.iter().copied()).collect();
        let expected = Expected { epoch, live, ..Expected::default() };
        let findings = self.stage.compare(0, self.backing, expected).await?;
        for difference in &findings.shown {
            self.progress.note(&difference.to_string());
        }
        self.progress.note(&format!(
            "{} legs and {} records compared, {} differences",
            findings.legs.values().sum::<u64>(),
            findings.records.values().sum::<u64>(),
            findings.total
        ));
        Ok(findings.total)
    }
}
