//! What the operator is shown: the core's views, the sessions' counters and the queues in one report.

use super::driver::Driver;
use super::peer::Peer;
use crate::link::{LinkHandle, ListenCounters};
use crate::model::Moment;
use crate::ops::status::{
    Alarms, ClientsStatus, Completeness, LegCounts, LinkState, Phase, Queues, RoundReport, ServerStatus, SinkHealth,
    Status, Term, Trigger,
};
use crate::recovery::lease::Incumbent;
use crate::recovery::{self, Alarm, ServerView};
use remeet_protocol::ServerId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How old the numbers in the status text may be at most.
const PAUSE_MAX_MS: u64 = 2_000;

/// What the driver notes down for the report.
#[derive(Debug)]
pub(super) struct Telling {
    started_at_ms: u64,
    clients: SocketAddr,
    port: Arc<ListenCounters>,
    pub term_since_ms: Option<u64>,
    phase: (Phase, u64),
    /// What the service manager was told last, and when.
    text: (String, u64),
    alarms: Alarms,
    store: Sink,
    cache: Sink,
    cache_probed: Moment,
    counters: BTreeMap<String, u64>,
}

/// What the store was asked for: one side may fail while the other answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreSide {
    Reads,
    Writes,
}

#[derive(Debug)]
struct Sink {
    healthy: bool,
    /// Which sides of the store fail.
    failing: [bool; 2],
    since_ms: u64,
    last_error: Option<String>,
    /// Since when nothing has waited for it.
    idle_since_ms: Option<u64>,
}

impl Telling {
    pub(super) fn new(wall_ms: u64, (clients, port): (SocketAddr, Arc<ListenCounters>)) -> Self {
        let sink =
            || Sink { healthy: true, failing: [false; 2], since_ms: wall_ms, last_error: None, idle_since_ms: None };
        Self {
            started_at_ms: wall_ms,
            clients,
            port,
            term_since_ms: None,
            phase: (Phase::Starting, wall_ms),
            text: (String::new(), wall_ms),
            alarms: Alarms::default(),
            store: sink(),
            cache: sink(),
            cache_probed: Moment::default(),
            counters: BTreeMap::new(),
        }
    }

    pub(super) fn count(&mut self, name: &str) {
        match self.counters.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.counters.insert(name.to_owned(), 1);
            }
        }
    }

    /// How often this alarm has been raised now.
    pub(super) fn alarm(&mut self, wall_ms: u64, alarm: &Alarm) -> u64 {
        let (kind, text) = shown(alarm);
        self.count(&format!("alarms_{kind}"));
        self.alarms.raise(wall_ms, &kind, &text)
    }

    pub(super) fn alarm_over(&mut self, wall_ms: u64, alarm: &Alarm) {
        let (kind, text) = shown(alarm);
        self.alarms.end(wall_ms, &kind, &text);
    }

    pub(super) fn store_failed(&mut self, wall_ms: u64, side: StoreSide, reason: String) {
        self.store.failing[side as usize] = true;
        self.store.fail(wall_ms, reason);
        self.count("store_failures");
    }

    pub(super) fn store_answered(&mut self, wall_ms: u64, side: StoreSide) {
        self.store.failing[side as usize] = false;
        if self.store.failing == [false; 2] {
            self.store.answer(wall_ms);
        }
    }

    pub(super) fn cache_failed(&mut self, wall_ms: u64, reason: String) {
        self.cache.fail(wall_ms, reason);
        self.count("cache_failures");
    }

    /// The cache was away when it was last used, and it is time to look again: at most once a second.
    pub(super) fn cache_probe_due(&mut self, now: Moment) -> bool {
        let due = !self.cache.healthy && now.since(self.cache_probed) >= Duration::from_secs(1);
        if due {
            self.cache_probed = now;
        }
        due
    }

    /// So many writes wait for the store, and for the cache.
    pub(super) fn waiting(&mut self, wall_ms: u64, store: usize, cache: usize) {
        for (sink, waiting) in [(&mut self.store, store), (&mut self.cache, cache)] {
            if waiting > 0 {
                sink.idle_since_ms = None;
            } else {
                sink.idle_since_ms.get_or_insert(wall_ms);
            }
        }
    }

    /// Whether it was away before.
    pub(super) fn cache_answered(&mut self, wall_ms: u64) -> bool {
        self.cache.answer(wall_ms)
    }

    /// Notes the phase; the text for `STATUS=` if it changed, and whether it belongs into the log. `legs`: how many are
    /// in memory.
    pub(super) fn phase(
        &mut self,
        wall_ms: u64,
        phase: Phase,
        legs: usize,
        text: impl FnOnce() -> String,
    ) -> Option<(String, bool)> {
        let changed = phase != self.phase.0;
        if changed {
            self.phase = (phase, wall_ms);
        }
        // The numbers move, faster while it recovers: told at most so often, and with many legs less often, since all of
        // them are looked at: some 10 ms for 100,000. Never later than somebody who watches would take for a stand-still.
        let pause = if phase == Phase::Recovering { 250 } else { 1_000 }.max((legs as u64 / 100).min(PAUSE_MAX_MS));
        if !changed && wall_ms.abs_diff(self.text.1) < pause {
            return None;
        }
        self.text.1 = wall_ms;
        let text = text();
        if text == self.text.0 {
            return None;
        }
        self.text.0.clone_from(&text);
        Some((text, changed || phase == Phase::Recovering))
    }

    pub(super) fn stopping(&mut self, wall_ms: u64) {
        self.phase = (Phase::Stopping, wall_ms);
    }
}

/// An alarm's kind and text, as the operator sees them.
fn shown(alarm: &Alarm) -> (String, String) {
    let kind = serde_json::to_value(alarm.kind).ok();
    let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or("alarm").to_owned();
    let mut text = String::new();
    if let Some(server) = alarm.server {
        text.push_str(&format!("server {server}: "));
    }
    if let Some(leg) = alarm.leg {
        text.push_str(&format!("leg {leg}: "));
    }
    text.push_str(&alarm.text);
    (kind, text)
}

impl Sink {
    fn fail(&mut self, wall_ms: u64, reason: String) {
        if std::mem::replace(&mut self.healthy, false) {
            self.since_ms = wall_ms;
        }
        self.last_error = Some(reason);
    }

    fn answer(&mut self, wall_ms: u64) -> bool {
        let was_away = !std::mem::replace(&mut self.healthy, true);
        if was_away {
            self.since_ms = wall_ms;
        }
        was_away
    }

    fn health(&self, what: String, waiting: usize) -> SinkHealth {
        SinkHealth {
            what,
            healthy: self.healthy,
            since_ms: self.since_ms,
            waiting: waiting as u64,
            idle_since_ms: self.idle_since_ms.filter(|_| waiting == 0),
            last_error: self.last_error.clone(),
        }
    }
}

pub(super) fn phase(driver: &Driver) -> Phase {
    let telling = &driver.telling;
    if telling.phase.0 == Phase::Stopping {
        Phase::Stopping
    } else if driver.core.token().is_none() {
        match driver.lease.incumbent() {
            _ if !telling.store.healthy => Phase::WaitingForDatabase,
            Some(_) => Phase::Standby,
            None if driver.lease.is_held_back(driver.clock.now()) => Phase::Standby,
            None => Phase::Starting,
        }
    } else if driver.core.is_steady() && telling.store.healthy && !driver.peers.any_unreached() {
        Phase::Steady
    } else if telling.store.healthy {
        Phase::Recovering
    } else {
        Phase::WaitingForDatabase
    }
}

/// One line for `STATUS=`.
pub(super) fn headline(views: &[ServerView], phase: Phase, incumbent: Option<&Incumbent>) -> String {
    if let (Phase::Standby, Some(incumbent)) = (phase, incumbent) {
        return format!("standby: node {} holds term {}", incumbent.node, incumbent.epoch);
    }
    let (legs, ours): (u64, u64) =
        views.iter().fold((0, 0), |(legs, ours), view| (legs + view.legs, ours + view.in_meeting));
    let down = views.iter().filter(|view| !view.up).count();
    let mut text = format!("{}: {ours} of {legs} meetings in control", phase.name());
    let sum = |count: fn(&ServerView) -> u64| views.iter().map(count).sum::<u64>();
    for (count, what) in [
        (sum(|view| view.backfilling), "being back-filled"),
        (sum(|view| view.pending.values().sum()), "pending"),
        (sum(|view| view.quarantined), "quarantined"),
        (sum(|view| view.orphans), "orphans"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if down > 0 {
        text.push_str(&format!(", {down} of {} servers unreachable", views.len()));
    }
    text
}

pub(super) fn report(driver: &Driver) -> Status {
    let config = &driver.config;
    let telling = &driver.telling;
    let views: BTreeMap<ServerId, ServerView> =
        driver.core.server_views().into_iter().map(|view| (view.id, view)).collect();
    let servers: Vec<ServerStatus> = config
        .servers
        .iter()
        .filter_map(|server| Some(server_status(server, driver.peers.get(server.id)?, views.get(&server.id)?)))
        .collect();
    let mut totals = LegCounts::default();
    for server in &servers {
        totals.add(&server.legs);
    }
    let token = driver.core.token();
    let phase = phase(driver);
    let mut counters = telling.counters.clone();
    for peer in driver.peers.values() {
        let counted = peer.session.counters();
        for (name, value) in [
            ("packets_in", counted.packets_in),
            ("packets_out", counted.packets_out),
            ("requests_repeated", counted.retries),
            ("requests_unanswered", counted.unanswered),
            ("unknown_types", counted.unknown_types),
            ("events_repeated", counted.repeated_events),
            ("links_cut_inside_a_packet", peer.link.as_ref().map_or(0, LinkHandle::cut)),
        ] {
            *counters.entry(name.to_owned()).or_default() += value;
        }
    }
    let port = &telling.port;
    for (name, value) in [
        ("clients_accepted", &port.accepted),
        ("clients_too_many", &port.refused),
        ("clients_silent", &port.silent),
        ("client_streams_broken", &port.broken),
        ("client_streams_cut", &port.cut),
    ] {
        counters.insert(name.to_owned(), value.load(Ordering::Relaxed));
    }
    for (name, value) in [
        ("persists_open", driver.core.persists_open() as u64),
        ("rows_written", driver.writers.rows()),
        ("records_read", driver.readers.records()),
    ] {
        counters.insert(name.to_owned(), value);
    }
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        name: config.scheduler.name.clone(),
        domain: config.scheduler.domain,
        node: config.scheduler.node.clone(),
        at_ms: driver.clock.wall_ms(),
        started_at_ms: telling.started_at_ms,
        phase,
        phase_since_ms: telling.phase.1,
        term: token.map(|token| Term {
            epoch: token.epoch,
            holder: token.holder,
            since_ms: telling.term_since_ms.unwrap_or_default(),
        }),
        lease: driver.lease.view(driver.clock.now()),
        servers,
        totals,
        rounds: rounds(driver, &views),
        store: telling.store.health(config.store.url.shown(), driver.writers.waiting()),
        cache: telling.cache.health(config.cache.url.shown(), driver.cacher.waiting()),
        clients: ClientsStatus {
            listen: telling.clients,
            connected: driver.shared.clients.count(),
            subscribed: driver.shared.subscribers.count(),
        },
        alarms: telling.alarms.clone(),
        counters,
    }
}

fn server_status(server: &crate::config::Server, peer: &Peer, view: &ServerView) -> ServerStatus {
    let lengths = peer.session.lengths();
    ServerStatus {
        id: server.id,
        name: server.name.clone(),
        address: server.address,
        under: server.under,
        link: match (view.up, view.attached) {
            (true, true) => LinkState::Attached,
            (true, false) => LinkState::Up,
            (false, _) if peer.is_first_dialled() => LinkState::Dialling,
            (false, _) => LinkState::Down,
        },
        link_since_ms: peer.link_since_ms,
        boot: view.boot.or_else(|| peer.session.boot()),
        table_revision: view.table_revision,
        legs: LegCounts {
            live: view.legs + view.orphans,
            in_meeting: view.in_meeting,
            recovering: view.recovering,
            orphans: view.orphans,
            pending: view.pending.values().sum(),
            quarantined: view.quarantined,
        },
        queues: Queues {
            takeovers: lengths.takeovers as u64,
            commands: (lengths.commands + lengths.held) as u64,
            pulls: lengths.pulls as u64,
            events: lengths.events_waiting as u64,
        },
        misbehaviour: peer
            .session
            .counters()
            .misbehaviours
            .iter()
            .map(|(kind, count)| (kind.name().to_owned(), *count))
            .collect(),
        last_error: view.trouble.clone(),
    }
}

fn rounds(driver: &Driver, views: &BTreeMap<ServerId, ServerView>) -> Vec<RoundReport> {
    let epoch = driver.core.token().map(|token| token.epoch).unwrap_or_default();
    let triggers = [
        (recovery::Trigger::Restart, Trigger::Restart),
        (recovery::Trigger::LinkRestored, Trigger::LinkRestored),
        (recovery::Trigger::Reconcile, Trigger::Reconcile),
    ];
    let mut rounds = Vec::new();
    for (trigger, shown) in triggers {
        let servers: Vec<ServerId> =
            views.values().filter(|view| view.reports.contains_key(&trigger)).map(|view| view.id).collect();
        if servers.is_empty() {
            continue;
        }
        let report = driver.core.report(trigger);
        let running = views.values().any(|view| view.round.is_some());
        let share = |part: u64, whole: u64| if whole == 0 { 100.0 } else { part as f64 * 100.0 / whole as f64 };
        let percent = |known: u64| share(known, report.terminals);
        rounds.push(RoundReport {
            trigger: shown,
            began_at_ms: report.began_at_ms,
            ended_at_ms: (!running).then_some(report.ended_at_ms),
            epoch,
            servers,
            meetings_live: report.live,
            recovered: report.recovered,
            orphans: report.orphans,
            vanished: report.vanished,
            ended: report.ended,
            pending: report.pending_total(),
            pending_by_reason: report.pending.clone(),
            keys_from_database: report.keys_from_database,
            keys_from_cache: report.keys_from_cache,
            in_control_ms: (report.in_control_at_ms > 0).then_some(report.in_control_ms),
            backfilled_ms: (report.backfilled_at_ms > 0).then_some(report.backfilled_ms),
            in_control_at_ms: (report.in_control_at_ms > 0).then_some(report.in_control_at_ms),
            in_control_p99_at_ms: report.in_control_at(0.99),
            backfilled_at_ms: (report.backfilled_at_ms > 0).then_some(report.backfilled_at_ms),
            completeness: Completeness {
                meeting: share(report.informed, report.contents),
                business: percent(report.known[0]),
                decode: percent(report.known[1]),
                extra: percent(report.known[2]),
            },
            contents: report.contents,
            read_back: report.read_back,
            missing: report.missing,
            missing_total: report.missing_total,
        });
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_at_once_and_numbers_after_a_pause_that_grows_with_the_legs_to_a_bound() {
        let at = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut told = 0;
        let mut text = || {
            told += 1;
            format!("{told}")
        };
        let mut telling = Telling::new(0, (at, Arc::default()));
        let mut tells = |now, phase, legs| telling.phase(now, phase, legs, &mut text).is_some();
        assert!(tells(1, Phase::Recovering, 1_000_000), "another phase");
        assert!(!tells(250, Phase::Recovering, 10), "too soon");
        assert!(tells(251, Phase::Recovering, 10));
        assert!(!tells(1_250, Phase::Recovering, 100_000) && tells(1_251, Phase::Recovering, 100_000));
        assert!(tells(1_252, Phase::Steady, 100_000), "another phase");
        assert!(!tells(2_251, Phase::Steady, 10) && tells(2_252, Phase::Steady, 10));
        assert!(!tells(4_251, Phase::Steady, 10_000_000) && tells(4_252, Phase::Steady, 10_000_000), "the bound");
    }
}
