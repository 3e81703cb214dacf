//! The one task that owns the core and the sessions. It moves values and decides nothing.
//!
//! Each turn: take everything that has come (bounded), feed it to the cores, carry out what they answer
//! until they have nothing more to say, begin batches, then wait for the next thing or the next timer.

mod life;

pub(super) use life::Ended;

use super::cacher::{self, Cacher};
use super::clock::Clock;
use super::handle::{Handle, ReconcileError, Reconciled, Request, Shared, Troubled};
use super::helper::Helpers;
use super::peers::Peers;
use super::reader::{self, Readers};
use super::status;
use super::status::{StoreSide, Telling};
use super::term::{Keeper, PRUNE, prune};
use super::writer::{self, Writers};
use crate::config::Config;
use crate::link::{LinkEvent, ListenCounters};
use crate::ops::{Heartbeat, ServiceManager};
use crate::recovery::dry_run::ServerPlan;
use crate::recovery::lanes::Awaited;
use crate::recovery::lease::{Lease, LeaseAnswer, LifeEnd};
use crate::recovery::{Alarm, Command, Core, Input, Output, ServerView, Waiter};
use crate::session::{Heard, PersistId};
use crate::store::{Cache, Outcome, Store, StoreError};
use remeet_protocol::message::ClientAnswer;
use remeet_protocol::{ErrorCode, Holder, ServerId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Things taken in one turn before outputs are carried out: enough to batch, few enough that a flood
/// from one side does not keep the others waiting.
const TURN: usize = 512;
/// Requests from above that wait for the driver: more wait in their senders.
const REQUESTS: usize = 1_024;
/// Link events that wait for the driver: a full queue stops reading from the sockets.
const LINK_EVENTS: usize = 256;
/// The most that `clients.events_waiting_max` may ask for: they are kept once for all subscribers, some 16 MB.
const PUBLISHED_MAX: usize = 65_536;
/// Units on their way to the store beyond which client commands are answered `retry`: several seconds of
/// a loaded store's work.
const WRITES_WAITING_MAX: usize = 50_000;
/// The longest wait without a turn: the watchdog is fed by turns.
const IDLE: Duration = Duration::from_millis(500);

/// What a driver is made of.
pub(super) struct Parts {
    pub config: Arc<Config>,
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    pub cache: Arc<dyn Cache>,
    pub service: ServiceManager,
    pub heartbeat: Heartbeat,
    /// Where clients are let in, and what is counted there.
    pub clients: (SocketAddr, Arc<ListenCounters>),
    pub lease: Lease,
}

/// The driver: one life of the scheduler, from its wait for a term to the end of that term.
pub(super) struct Driver {
    pub(super) config: Arc<Config>,
    pub(super) clock: Clock,
    pub(super) core: Core,
    pub(super) peers: Peers,
    pub(super) writers: Writers,
    pub(super) cacher: Cacher,
    pub(super) shared: Arc<Shared>,
    pub(super) telling: Telling,
    store: Arc<dyn Store>,
    pub(super) readers: Readers,
    helpers: Helpers,
    /// What a helper did that panicked.
    panicked: mpsc::Receiver<&'static str>,
    written: mpsc::UnboundedReceiver<writer::Done>,
    reads: mpsc::UnboundedReceiver<reader::Told>,
    cached: mpsc::UnboundedReceiver<cacher::Done>,
    requests: mpsc::Receiver<Request>,
    link_events: mpsc::Receiver<(ServerId, LinkEvent)>,
    links: mpsc::Sender<(ServerId, LinkEvent)>,
    published: broadcast::Sender<Arc<crate::recovery::Published>>,
    waiters: BTreeMap<Waiter, oneshot::Sender<ClientAnswer>>,
    last_waiter: u64,
    /// Who is told the plans of a dry run; the core bounds their number.
    dry_runs: BTreeMap<Waiter, mpsc::UnboundedSender<ServerPlan>>,
    /// Which sessions await a persist.
    awaited: Awaited,
    /// Who may command, and until when: it outlives this driver.
    pub(super) lease: Lease,
    keeper: Keeper,
    lease_answers: mpsc::Receiver<LeaseAnswer>,
    /// Releases of another node's lease.
    releases: mpsc::Receiver<()>,
    /// Why this life is over.
    over: Option<Ended>,
    /// Operators that wait for the hand-over.
    handing_over: Vec<oneshot::Sender<Result<(), String>>>,
    /// Ends with the driver.
    pruning: Option<AbortOnDropHandle<()>>,
    service: ServiceManager,
    heartbeat: Heartbeat,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> (Self, Handle) {
        let Parts { config, clock, store, cache, service, heartbeat, clients, lease } = parts;
        let holder = Holder(uuid::Uuid::new_v4());
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        seed[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let servers: Vec<_> = config.servers.iter().map(|server| (server.id, server.domain)).collect();
        let settings = crate::recovery::Settings {
            pulls_in_flight: usize::try_from(config.recovery.pulls_in_flight).unwrap_or(usize::MAX),
            reconcile_every: config.recovery.reconcile_interval,
            round_deadline: config.recovery.round_deadline,
            round_retry: config.recovery.retry_first,
            round_retry_max: config.recovery.retry_max,
            legs_max: usize::try_from(config.clients.meetings_max).unwrap_or(usize::MAX),
            waiting_deadline: config.clients.command_deadline,
            waiting_per_leg: usize::try_from(config.clients.commands_waiting_max).unwrap_or(usize::MAX),
            ..crate::recovery::Settings::default()
        };
        let core = Core::new(settings, &servers, seed);
        let (helpers, panicked) = Helpers::new();
        let (writers, written) = Writers::new(Arc::clone(&store), helpers.clone());
        let (readers, reads) = Readers::new(Arc::clone(&store), Arc::clone(&cache), helpers.clone());
        let (cacher, cached) = Cacher::new(Arc::clone(&store), Arc::clone(&cache), helpers.clone());
        let (sender, requests) = mpsc::channel(REQUESTS);
        let (links, link_events) = mpsc::channel(LINK_EVENTS);
        let events_waiting = usize::try_from(config.clients.events_waiting_max).unwrap_or(PUBLISHED_MAX);
        let (published, _) = broadcast::channel(events_waiting.clamp(1, PUBLISHED_MAX));
        let shared = Arc::new(Shared::default());
        let handle = Handle {
            requests: sender,
            published: published.clone(),
            store: Arc::clone(&store),
            cache,
            shared: Arc::clone(&shared),
            holder,
        };
        let wall_ms = clock.wall_ms();
        let peers = Peers::new(&config, holder, wall_ms);
        let telling = Telling::new(wall_ms, clients);
        let node = config.scheduler.node.clone();
        let lease_span = config.scheduler.lease;
        let (mut keeper, lease_answers) = Keeper::new(Arc::clone(&store), helpers.clone(), node, holder, lease_span);
        let releases = keeper.listen();
        let driver = Self {
            config,
            clock,
            core,
            peers,
            writers,
            cacher,
            shared,
            telling,
            store,
            readers,
            helpers,
            panicked,
            written,
            reads,
            cached,
            requests,
            link_events,
            links,
            published,
            waiters: BTreeMap::new(),
            last_waiter: 0,
            dry_runs: BTreeMap::new(),
            awaited: Awaited::default(),
            lease,
            keeper,
            lease_answers,
            releases,
            over: None,
            handing_over: Vec::new(),
            pruning: None,
            service,
            heartbeat,
        };
        (driver, handle)
    }

    /// Runs until `stop`, until an operator hands over, or until another term stands.
    pub(super) async fn run(&mut self, stop: CancellationToken) -> Ended {
        self.peers.dial(&self.config, &self.links);
        let ended = loop {
            self.pump();
            if let Some(ended) = self.over {
                break ended;
            }
            self.tend_lease();
            self.tell_service();
            self.telling.waiting(self.clock.wall_ms(), self.writers.waiting(), self.cacher.waiting());
            let wake = self.next_wake();
            tokio::select! {
                () = stop.cancelled() => break Ended::Stopped,
                Some(doing) = self.panicked.recv() => break Ended::Broken(doing),
                Some(answer) = self.lease_answers.recv() => self.lease_answered(answer),
                Some(()) = self.releases.recv() => self.lease.released(self.clock.now()),
                Some(event) = self.link_events.recv() => self.take_link_events(event),
                Some(done) = self.written.recv() => self.take_written(done),
                Some(told) = self.reads.recv() => self.take_read(told),
                Some(done) = self.cached.recv() => self.take_cached(done),
                Some(request) = self.requests.recv() => self.take_requests(request),
                () = tokio::time::sleep_until(wake) => self.wake(),
            }
            self.heartbeat.beat();
        };
        self.end(ended).await;
        ended
    }

    /// The lease, for the next life.
    pub(super) fn into_lease(self) -> Lease {
        self.lease
    }

    fn feed(&mut self, input: Input) {
        self.core.handle(self.clock.now(), self.clock.wall_ms(), input);
    }

    fn alarm(&mut self, alarm: &Alarm) {
        let times = self.telling.alarm(self.clock.wall_ms(), alarm);
        // What is raised again and again must not fill the log.
        if times.is_power_of_two() {
            tracing::error!(
                kind = ?alarm.kind,
                server = alarm.server.map(|server| server.0),
                leg = alarm.leg.map(tracing::field::display),
                times,
                "{}",
                alarm.text
            );
        }
    }

    fn alarm_over(&mut self, alarm: &Alarm) {
        tracing::info!(
            kind = ?alarm.kind,
            server = alarm.server.map(|server| server.0),
            leg = alarm.leg.map(tracing::field::display),
            "over: {}",
            alarm.text
        );
        self.telling.alarm_over(self.clock.wall_ms(), alarm);
    }

    // ---- what comes ----

    fn take_link_events(&mut self, first: (ServerId, LinkEvent)) {
        let mut next = Some(first);
        let mut left = TURN;
        while let Some((server, event)) = next {
            self.peers.link_event(self.clock.now(), server, event);
            left = left.saturating_sub(64);
            next = if left == 0 { None } else { self.link_events.try_recv().ok() };
        }
    }

    fn take_written(&mut self, done: writer::Done) {
        match self.writers.end(done) {
            Ok(inputs) => {
                self.telling.store_answered(self.clock.wall_ms(), StoreSide::Writes);
                for input in inputs {
                    if let Input::Written(id, outcome) = &input {
                        self.release(*id, *outcome);
                    }
                    self.feed(input);
                }
            }
            Err(StoreError::Fenced { .. }) => {
                self.lease.fenced();
                self.over = Some(Ended::Over(LifeEnd::Fenced));
            }
            Err(error) => {
                tracing::warn!("{error}; what waits is kept and tried again");
                self.telling.store_failed(self.clock.wall_ms(), StoreSide::Writes, error.to_string());
            }
        }
    }

    /// Persist, then send: the sessions release what awaited this.
    fn release(&mut self, id: PersistId, outcome: Outcome) {
        let now = self.clock.now();
        for server in self.awaited.take(id) {
            self.peers.settled(now, server, id, outcome);
        }
    }

    fn take_read(&mut self, told: reader::Told) {
        let wall = self.clock.wall_ms();
        match told {
            reader::Told::Done(input, answers, _place) => {
                if answers {
                    self.telling.store_answered(wall, StoreSide::Reads);
                }
                self.feed(input);
            }
            reader::Told::StoreFailed(reason) => {
                tracing::warn!("{reason}; it is asked again");
                self.telling.store_failed(wall, StoreSide::Reads, reason);
            }
        }
    }

    fn take_cached(&mut self, done: cacher::Done) {
        self.cacher.ended(self.clock.now(), done.unforgotten);
        let wall = self.clock.wall_ms();
        match done.health {
            Some(Ok(())) => self.cache_answered(wall),
            Some(Err(reason)) => {
                tracing::warn!("{reason}; the cache is brought up to date when it answers");
                self.telling.cache_failed(wall, reason);
            }
            None => {}
        }
        for input in done.inputs {
            self.feed(input);
        }
    }

    fn cache_answered(&mut self, wall: u64) {
        if self.telling.cache_answered(wall) {
            // It was away: everything cached is compared again.
            self.cacher.answers_again(self.clock.now());
            self.feed(Input::Reconcile(None));
        }
    }

    fn take_requests(&mut self, first: Request) {
        let mut next = Some(first);
        let mut left = TURN;
        while let Some(request) = next {
            self.take_request(request);
            left -= 1;
            next = if left == 0 { None } else { self.requests.try_recv().ok() };
        }
    }

    fn take_request(&mut self, request: Request) {
        match request {
            Request::Command { rights, command, answer } => {
                if self.writers.waiting() > WRITES_WAITING_MAX {
                    let busy = ClientAnswer {
                        instance: command.instance,
                        number: command.number,
                        code: ErrorCode::RETRY,
                        retry_after_ms: 1_000,
                        detail: remeet_protocol::wire::Text::cut("the store is behind: send it again"),
                        meeting: command.meeting,
                    };
                    // Who left does not wait for an answer.
                    let _ = answer.send(busy);
                    return;
                }
                self.telling.count("client_commands");
                self.last_waiter += 1;
                let waiter = Waiter(self.last_waiter);
                self.waiters.insert(waiter, answer);
                self.feed(Input::Command(Command { waiter, rights, command }));
            }
            Request::Derive { rows, answer } => {
                let states = rows.iter().map(|rows| self.core.derive(rows)).collect();
                let _ = answer.send(states);
            }
            Request::Status(answer) => {
                let _ = answer.send(Box::new(status::report(self)));
            }
            Request::Troubled(answer) => {
                let _ = answer.send(self.troubled());
            }
            Request::Reconcile { server, answer } => {
                let reconciled = self.reconcile(server);
                let _ = answer.send(reconciled);
            }
            Request::LiftQuarantine { leg, answer } => {
                self.last_waiter += 1;
                let waiter = Waiter(self.last_waiter);
                self.waiters.insert(waiter, answer);
                self.feed(Input::LiftQuarantine(waiter, leg));
            }
            Request::DryRun { server, plans } => self.dry_run(server, plans),
            Request::StepDown(answer) => self.step_down(answer),
            Request::Count(name) => self.telling.count(name),
        }
    }

    /// The channel holds a plan each server at most.
    fn dry_run(
        &mut self,
        only: Option<ServerId>,
        plans: oneshot::Sender<Result<mpsc::UnboundedReceiver<ServerPlan>, ReconcileError>>,
    ) {
        let known: Vec<ServerId> = self.peers.ids().collect();
        let asked: Vec<ServerId> = known.iter().copied().filter(|id| only.is_none_or(|only| only == *id)).collect();
        if let (Some(server), true) = (only, asked.is_empty()) {
            // Whoever asked may have left.
            let _ = plans.send(Err(ReconcileError::UnknownServer { server, known }));
            return;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        if plans.send(Ok(receiver)).is_ok() {
            self.last_waiter += 1;
            let waiter = Waiter(self.last_waiter);
            self.dry_runs.insert(waiter, sender);
            self.feed(Input::DryRun(waiter, asked));
        }
    }

    /// Begins comparisons; says with which servers, and which of those asked for are not connected.
    fn reconcile(&mut self, only: Option<ServerId>) -> Result<Reconciled, ReconcileError> {
        if self.core.token().is_none() {
            return Err(ReconcileError::NoTerm);
        }
        let views = self.core.server_views();
        let asked: Vec<_> = views.iter().filter(|view| only.is_none_or(|only| only == view.id)).collect();
        if let (Some(server), true) = (only, asked.is_empty()) {
            return Err(ReconcileError::UnknownServer { server, known: views.iter().map(|view| view.id).collect() });
        }
        let (up, down): (Vec<_>, Vec<_>) = asked.into_iter().partition(|view| view.up);
        let ids = |views: Vec<&ServerView>| views.into_iter().map(|view| view.id).collect();
        let reconciled = Reconciled { compared: ids(up), unreachable: ids(down) };
        self.feed(Input::Reconcile(only));
        Ok(reconciled)
    }

    fn troubled(&self) -> (Vec<Troubled>, Vec<ServerId>) {
        let mut troubled: Vec<Troubled> = self
            .core
            .orphans()
            .map(|(server, handle, leg)| Troubled { leg, server, reason: "orphan".to_owned(), handle: Some(handle) })
            .collect();
        troubled.extend(self.core.pending().into_iter().map(|(server, leg, reason)| Troubled {
            leg,
            server,
            reason,
            handle: None,
        }));
        (troubled, self.core.unread_servers())
    }

    fn wake(&mut self) {
        let now = self.clock.now();
        if self.telling.cache_probe_due(now) {
            let epoch = self.core.token().map(|token| token.epoch).unwrap_or_default();
            self.cacher.probe(epoch);
        }
        self.peers.wake(now);
        if self.core.next_wake().is_some_and(|at| at <= now) {
            self.feed(Input::Wake);
        }
    }

    fn next_wake(&self) -> tokio::time::Instant {
        let idle = self.clock.now() + IDLE;
        let due = self.peers.next_wake().into_iter().chain(self.core.next_wake()).chain(self.lease.next_wake());
        self.clock.instant(due.min().map_or(idle, |at| at.min(idle)))
    }

    // ---- what follows ----

    /// Carries out outputs until nobody has anything more to say.
    fn pump(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.core.poll() {
                quiet = false;
                self.carry_out(output);
            }
            let wall = self.clock.wall_ms();
            let heard = self.peers.heard(wall);
            for (server, said) in heard {
                quiet = false;
                if let Heard::Up { .. } = said {
                    self.peers.reached(self.clock.now(), server);
                }
                self.feed(Input::Heard(server, said));
            }
            if quiet {
                break;
            }
        }
        // Rule 5: asked as late as can be, just before packets are handed over.
        let may_command = self.lease.may_command(self.clock.now());
        self.peers.hand_over(self.clock.now(), may_command);
        if let Some(token) = self.core.token() {
            self.writers.begin(token);
            self.cacher.begin(self.clock.now(), token.epoch);
        }
        self.waiters_left();
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Persist { id, lane, unit } => self.writers.push(lane, id, unit),
            Output::Ask { server, ticket, request, after } => {
                if let Some(id) = after {
                    self.awaited.add(id, server);
                }
                self.peers.ask(self.clock.now(), server, ticket, request, after);
            }
            Output::Acknowledge { server, number } => self.peers.acknowledge(server, number),
            Output::Read { id, read } => self.readers.begin(id, read),
            Output::Cache(task) => {
                if let Some(behind) = self.cacher.push(self.clock.now(), task) {
                    self.feed(behind);
                }
            }
            Output::Answer(waiter, answer) => {
                if let Some(client) = self.waiters.remove(&waiter) {
                    // A client that left gets the kept answer when it asks again.
                    let _ = client.send(answer);
                }
            }
            // Nobody subscribed is no error.
            Output::Publish(published) => drop(self.published.send(Arc::new(published))),
            Output::Alarm(alarm) => self.alarm(&alarm),
            Output::Planned { waiter, plan, last } => {
                if let Some(sender) = self.dry_runs.get(&waiter) {
                    // Whoever asked may have left.
                    let _ = sender.send(*plan);
                }
                if last {
                    self.dry_runs.remove(&waiter);
                }
            }
            Output::AlarmOver(alarm) => self.alarm_over(&alarm),
            Output::NewerToken { server, token } => self.newer_token(server, token),
        }
    }

    /// Clients that left are not waited for: their commands run on.
    fn waiters_left(&mut self) {
        if self.waiters.len() > REQUESTS {
            self.waiters.retain(|_, answer| !answer.is_closed());
        }
    }

    fn tell_service(&mut self) {
        let phase = status::phase(self);
        let wall = self.clock.wall_ms();
        let headline = || status::headline(&self.core.server_views(), phase, self.lease.incumbent());
        if let Some((text, logged)) = self.telling.phase(wall, phase, self.core.legs_known(), headline) {
            if logged {
                tracing::info!("{text}");
            }
            self.service.status(&text);
        }
    }
}
