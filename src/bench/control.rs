//! The control bench: commands alone, commands while a recovery runs, events at subscribers.

use super::fill::{Population, fill};
use super::ground::{PATIENCE, set, strike, until_quiet};
use super::load::{Drive, Latencies, Target, connect, heard, subscribe};
use super::options::Control;
use crate::ops::status::{LinkState, Status};
use crate::simulator::{Kind, Script};
use crate::stage::backing::Backing;
use crate::stage::directory::Directory;
use crate::stage::progress::Progress;
use crate::stage::{Stage, StageError, say, status, with_backing};
use remeet_protocol::ServerId;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Events that are on their way to a subscriber at a time: half of what may wait for it.
const EVENTS: f64 = 500.0;
/// An event reaches a subscriber within this, also on a busy machine.
const EVENT: Duration = Duration::from_secs(20);

/// What it came to. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Verdict {
    clients: u32,
    in_flight: u32,
    commands: u64,
    commands_per_s: u64,
    p50_ms: f64,
    p99_ms: f64,
    /// Recoveries of half of the servers that were gone through meanwhile.
    recoveries: u64,
    /// Meetings of one.
    recovering_meetings: u64,
    recovering_commands: u64,
    recovering_commands_per_s: u64,
    recovering_p50_ms: f64,
    recovering_p99_ms: f64,
    subscribers: u32,
    events: u64,
    events_per_s: u64,
    delivered_per_s: u64,
}

/// Runs it.
pub(super) async fn run(options: &Control) -> Result<bool, StageError> {
    options.check().map_err(StageError::new)?;
    let progress = Progress::new();
    let play = async |backing: &Backing, directory| on_stage(options, &progress, backing, directory).await;
    let verdict = with_backing("bench", &options.network.stores, play).await?;
    let out = &mut std::io::stdout();
    let Verdict { commands_per_s, p50_ms, p99_ms, recovering_commands_per_s, recovering_p50_ms, .. } = verdict;
    say(
        out,
        &format!(
            "{commands_per_s} commands a second, half within {p50_ms} ms, 99 % within {p99_ms} ms; while {} meetings were \
             recovered again and again: {recovering_commands_per_s} a second, {recovering_p50_ms} ms, {} ms; {} events a \
             second to {} subscribers, {} delivered",
            verdict.recovering_meetings,
            verdict.recovering_p99_ms,
            verdict.events_per_s,
            verdict.subscribers,
            verdict.delivered_per_s
        ),
    );
    if options.json {
        say(out, &serde_json::to_string(&verdict).unwrap_or_default());
    }
    Ok(true)
}

async fn on_stage(
    options: &Control,
    progress: &Progress,
    backing: &Backing,
    directory: Directory,
) -> Result<Verdict, StageError> {
    let clients = options.clients + options.subscribers;
    let mut stage = set(&options.network, clients, progress, backing, directory).await?;
    let population = fill(&options.network, &mut stage, backing, progress).await?;
    backing.database.tidy().await?;
    let mut bench = Bench { options, progress, stage: &mut stage, population };
    let verdict = bench.through().await;
    strike(stage, progress, verdict).await
}

struct Bench<'a> {
    options: &'a Control,
    progress: &'a Progress,
    stage: &'a mut Stage,
    population: Population,
}

impl Bench<'_> {
    async fn through(&mut self) -> Result<Verdict, StageError> {
        self.stage.schedulers[0].start()?;
        let all = u64::from(self.options.network.meetings);
        until_quiet(self.stage, self.progress, all, &BTreeSet::new()).await?;
        let (commanders, subscribers) = self.stage.client_names.split_at(self.options.clients as usize);
        let clients = connect(self.stage, commanders).await?;
        let listeners = connect(self.stage, subscribers).await?;
        let targets = self.targets();
        let span = Duration::from_secs(self.options.seconds);

        self.progress.step("clients command");
        let drive = Drive::begin(&clients, self.options.in_flight, &targets);
        sleep(span).await;
        let alone = drive.end().await?;
        self.tell("alone", &alone);

        self.progress.step("clients command while half of the servers are recovered, again and again");
        let drive = Drive::begin(&clients, self.options.in_flight, &targets);
        let (begun, mut recoveries) = (Instant::now(), 0);
        while begun.elapsed() < span {
            self.recovery(recoveries).await?;
            recoveries += 1;
        }
        let beside = drive.end().await?;
        self.tell("beside a recovery", &beside);
        until_quiet(self.stage, self.progress, all, &BTreeSet::new()).await?;

        self.progress.step("subscribers are told");
        let mut subscriptions = subscribe(&listeners).await?;
        let (begun, mut events) = (Instant::now(), 0);
        while begun.elapsed() < span {
            let told = self.change(events, EVENTS / f64::from(self.options.network.meetings)).await?;
            heard(&mut subscriptions, told, EVENT).await?;
            events += told;
        }
        let events_per_s = events * 1_000 / u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let halves = self.population.legs.len() / 2;
        Ok(Verdict {
            clients: self.options.clients,
            in_flight: self.options.in_flight,
            commands: alone.count(),
            commands_per_s: alone.per_second(),
            p50_ms: alone.at(0.5),
            p99_ms: alone.at(0.99),
            recoveries,
            recovering_meetings: self.population.legs[halves..].iter().map(|(_, legs)| legs.len() as u64).sum(),
            recovering_commands: beside.count(),
            recovering_commands_per_s: beside.per_second(),
            recovering_p50_ms: beside.at(0.5),
            recovering_p99_ms: beside.at(0.99),
            subscribers: self.options.subscribers,
            events,
            events_per_s,
            delivered_per_s: events_per_s * u64::from(self.options.subscribers),
        })
    }

    /// The meetings of the first half of the servers.
    fn targets(&self) -> Vec<Target> {
        let half = self.population.legs.len() / 2;
        let legs = self.population.legs[..half].iter().flat_map(|(_, legs)| legs);
        legs.map(|leg| leg.meeting).zip(0..).collect()
    }

    fn tell(&self, when: &str, latencies: &Latencies) {
        self.progress.note(&format!(
            "{when}: {} commands a second, half within {} ms, 99 % within {} ms",
            latencies.per_second(),
            latencies.at(0.5),
            latencies.at(0.99)
        ));
    }

    /// The links of the second half of the servers are cut, all their meetings change, and the links come back.
    async fn recovery(&mut self, number: u64) -> Result<(), StageError> {
        let half = self.stage.servers.len() / 2;
        let recovered: BTreeSet<ServerId> = self.stage.servers[half..].iter().map(|server| server.id).collect();
        for server in &mut self.stage.servers[half..] {
            server.control.cut_link(true).await?;
        }
        let cut = |status: &Status, server: ServerId| {
            matches!(status::link(status, server), Some(LinkState::Down | LinkState::Dialling))
        };
        let all_cut = |status: &Status| recovered.iter().all(|server| cut(status, *server));
        self.stage.status_when(0, "the links' cut is noticed", PATIENCE, |_| {}, all_cut).await?;
        for server in &mut self.stage.servers[half..] {
            let script = Script { seed: number, fraction: 1.0, meetings: None, kinds: Vec::new() };
            server.control.change(script).await?;
            server.control.cut_link(false).await?;
        }
        // The other half never comes to rest: clients command it.
        let back = |status: &Status| {
            let of = status.servers.iter().filter(|server| recovered.contains(&server.id));
            of.fold(true, |back, server| {
                back && server.link == LinkState::Attached
                    && server.legs.recovering == 0
                    && server.legs.in_meeting == server.legs.live
                    && server.queues.sum() == 0
            })
        };
        self.stage.status_when(0, "the links' return", PATIENCE, |_| {}, back).await.map(drop)
    }

    /// One change in a part of the meetings: each is an event. Answers how many.
    async fn change(&mut self, seed: u64, fraction: f64) -> Result<u64, StageError> {
        let mut events = 0;
        for server in &mut self.stage.servers {
            let script = Script { seed, fraction, meetings: None, kinds: vec![Kind::Extra] };
            let changed = server.control.change(script).await?;
            events += changed.iter().filter(|leg| leg.mark.revision > leg.previous).count() as u64;
        }
        Ok(events)
    }
}
