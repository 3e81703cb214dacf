//! Disorder drawn from a seed: which faults befall this run, each at a rate of its own; then they stop, and everything
//! must be recovered (rule 18).

use super::cacher::PLANTED;
use super::clients::{add, add_leg, create, number, tell};
use super::node::{Due, Interrupt};
use super::options::{Dice, Options};
use super::*;
use futures_util::FutureExt;
use remeet::model::RecoveryKey;
use remeet::recovery::Input;
use remeet::simulator::core::Misbehaviour;
use remeet::simulator::core::script::Kind;
use remeet::store::Cache;
use remeet_protocol::message::{AdoptOrphan, ClientOp, LegState, RemoveTerminal, SetDecode, SetRole, TerminalRole};
use remeet_protocol::record::{DisplayMode, LeaveReason, MediaCodec};
use remeet_protocol::wire::Text;
use remeet_protocol::{MeetingId, Secret};

/// Faults that a run has at least, beside packets that are lost or come twice.
pub(super) const FAULTS_MIN: u64 = 50;
/// Things that happen in a run at least, faults among them.
const ACTS_MIN: u64 = 160;
/// Commits in a run at least: faults that fall on a network where nobody commands prove little.
pub(super) const COMMITS_MIN: u64 = 80;

/// A fault (design §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    KillSoon,
    Pause,
    PauseBeyondTheLease,
    PauseInSend,
    StepDown,
    CutLink,
    CutServer,
    SilentCut,
    BreakLink,
    Garbage,
    CutStore,
    StoreDown,
    StoreFailsOver,
    Clocks,
    WipeCache,
    CacheEvicts,
    CacheGoesBack,
    CacheDown,
    CacheReadonly,
    StaleKey,
    WrongKey,
    Hang,
    RestartServer,
    ServerLosesTables,
    Busy,
    ServerEndsLeg,
    ForeignLeg,
    ClaimedTwice,
    EventsOverflow,
    RemovalsDropped,
    LyingCount,
    EndlessPages,
    WrongDigest,
    UnknownTypes,
}

const ALL: [Fault; 35] = [
    Fault::Kill,
    Fault::KillSoon,
    Fault::Pause,
    Fault::PauseBeyondTheLease,
    Fault::PauseInSend,
    Fault::StepDown,
    Fault::CutLink,
    Fault::CutServer,
    Fault::SilentCut,
    Fault::BreakLink,
    Fault::Garbage,
    Fault::CutStore,
    Fault::StoreDown,
    Fault::StoreFailsOver,
    Fault::Clocks,
    Fault::WipeCache,
    Fault::CacheEvicts,
    Fault::CacheGoesBack,
    Fault::CacheDown,
    Fault::CacheReadonly,
    Fault::StaleKey,
    Fault::WrongKey,
    Fault::Hang,
    Fault::RestartServer,
    Fault::ServerLosesTables,
    Fault::Busy,
    Fault::ServerEndsLeg,
    Fault::ForeignLeg,
    Fault::ClaimedTwice,
    Fault::EventsOverflow,
    Fault::RemovalsDropped,
    Fault::LyingCount,
    Fault::EndlessPages,
    Fault::WrongDigest,
    Fault::UnknownTypes,
];

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::Kill => "the scheduler is killed",
            Fault::KillSoon => "the scheduler is killed between two outputs",
            Fault::Pause => "the scheduler is paused",
            Fault::PauseBeyondTheLease => "the scheduler is paused beyond its lease",
            Fault::PauseInSend => "the scheduler is paused in mid-send",
            Fault::StepDown => "an operator hands over",
            Fault::CutLink => "one scheduler is cut from a server",
            Fault::CutServer => "a server is cut from everybody",
            Fault::SilentCut => "nothing gets through to or from a server, and nobody is told",
            Fault::BreakLink => "a link breaks",
            Fault::Garbage => "garbage on a link",
            Fault::CutStore => "one scheduler is cut from the store",
            Fault::StoreDown => "the store is down",
            Fault::StoreFailsOver => super::failover::LOST,
            Fault::Clocks => "clocks jump, the database's and a scheduler's",
            Fault::WipeCache => "the cache is wiped",
            Fault::CacheEvicts => "the cache evicts something",
            Fault::CacheGoesBack => "the cache goes back to what it was",
            Fault::CacheReadonly => "the cache may only be read",
            Fault::CacheDown => "the cache is down",
            Fault::StaleKey => "a stale key is cached",
            Fault::WrongKey => "a wrong key is cached",
            Fault::Hang => "a server hangs",
            Fault::RestartServer => "a server restarts",
            Fault::ServerLosesTables => "a server restarts without its tables",
            Fault::Busy => "a server is busy",
            Fault::ServerEndsLeg => "a server ends a leg",
            Fault::ForeignLeg => "a server carries a foreign leg",
            Fault::ClaimedTwice => "two servers claim one leg",
            Fault::EventsOverflow => "a server's events overflow",
            Fault::RemovalsDropped => "a server forgets removals",
            Fault::LyingCount => "a server's counts lie",
            Fault::EndlessPages => "a server's pages never end",
            Fault::WrongDigest => "a server's digests are wrong",
            Fault::UnknownTypes => "a server sends unknown types",
        }
    }
}

/// What befalls a run.
pub(super) struct Disorder {
    dice: Dice,
    /// Faults that are on, each as often as its rate.
    drawn: Vec<Fault>,
    /// Acts that are faults, a fraction.
    fraction: f64,
    legs: f64,
    meetings: Vec<MeetingId>,
    /// Legs that a second server claims.
    claimed: Vec<(ServerId, LegId)>,
    /// The database has failed over, or will at the next grant.
    failed_over: bool,
}

fn seconds(dice: &mut Dice, least: u64, below: u64) -> Duration {
    Duration::from_secs(least + dice.below(below - least))
}

/// A bound that a run of few meetings reaches, or the ordinary one.
fn few(dice: &mut Dice, ordinary: usize) -> usize {
    if dice.chance(0.5) { 1 + dice.below(4) as usize } else { ordinary }
}

/// What a run is made of: drawn, too.
fn options(dice: &mut Dice) -> Options {
    let mut rate = |on: f64, highest: u64| if dice.chance(on) { dice.below(highest) as f64 / 1_000.0 } else { 0.0 };
    let (loss, doubles) = (rate(0.4, 80), rate(0.4, 80));
    let ordinary = Options::default();
    let store_delay = Duration::from_millis(1 + dice.below(8));
    // A store that is busy reading answers of a while ago.
    let read_delay = if dice.chance(0.3) { Duration::from_millis(20 + dice.below(300)) } else { store_delay };
    Options {
        nodes: 2,
        servers: 3,
        clients: 2,
        loss,
        doubles,
        disorder: loss > 0.0 && dice.chance(0.5),
        delay: Duration::from_millis(1 + dice.below(12)),
        store_delay,
        read_delay,
        lease: Duration::from_millis(1_500 + dice.below(4_500)),
        turn: if dice.chance(0.5) { Duration::from_millis(1 + dice.below(10)) } else { Duration::ZERO },
        unknown_commits: 0.1,
        // Longer than a retry, than a lease, than a failover.
        late: if dice.chance(0.5) { 0.01 } else { 0.0 },
        cache_unsure: if dice.chance(0.5) { 0.05 } else { 0.0 },
        event_queue: 40,
        removals: 10,
        session: remeet::session::Settings {
            stream: loss == 0.0,
            answer_deadline: if dice.chance(0.5) { seconds(dice, 2, 6) } else { ordinary.session.answer_deadline },
            ..ordinary.session
        },
        recovery: remeet::recovery::Settings {
            // What nobody tells the scheduler of, such as a cache that forgot something, is found by a comparison.
            reconcile_every: Duration::from_secs(10),
            round_deadline: if dice.chance(0.5) { seconds(dice, 5, 20) } else { ordinary.recovery.round_deadline },
            waiting_deadline: seconds(dice, 2, 10),
            acceptances_unstored: few(dice, ordinary.recovery.acceptances_unstored),
            claims_in_flight: few(dice, ordinary.recovery.claims_in_flight),
            claims_at_least: few(dice, ordinary.recovery.claims_at_least),
            legs_unclaimed: few(dice, ordinary.recovery.legs_unclaimed),
            ..ordinary.recovery
        },
        ..ordinary
    }
}

impl Disorder {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 7);
        let mut drawn = Vec::new();
        for fault in ALL {
            if dice.chance(0.6) {
                let rate = 1 + dice.below(8);
                drawn.extend((0..rate).map(|_| fault));
            }
        }
        let fraction = 0.15 + dice.below(60) as f64 / 100.0;
        let legs = if dice.chance(0.4) { 0.5 } else { 0.0 };
        Self { dice, drawn, fraction, legs, meetings: Vec::new(), claimed: Vec::new(), failed_over: false }
    }

    fn within(&mut self, longest_ms: u64) -> Duration {
        Duration::from_millis(1 + self.dice.below(longest_ms))
    }

    /// The fault befalls, if it can; or is set for a later step, and counts when that has come.
    fn befall(&mut self, world: &mut World, fault: Fault) {
        let server = ServerId(1 + self.dice.below(3) as u32);
        let node = self.dice.below(world.nodes.len() as u64) as usize;
        // Now and then the standby's turn has come.
        let active = world.commander().filter(|_| self.dice.chance(0.8)).unwrap_or(node);
        // Now and then beyond most deadlines.
        let longest = if self.dice.chance(0.1) { 15_000 } else { 1_500 };
        let span = self.within(longest);
        match fault {
            // It has befallen already, and is not over.
            Fault::CutLink | Fault::CutServer | Fault::SilentCut if world.is_cut(node, server) => return,
            Fault::Hang if world.hangs(server) => return,
            Fault::StoreDown if world.store_down => return,
            Fault::CacheDown | Fault::CacheReadonly if world.cache_down || world.cache_readonly => return,
            Fault::CutStore if world.nodes[active].store_cut => return,
            Fault::Busy | Fault::LyingCount | Fault::EndlessPages | Fault::WrongDigest | Fault::UnknownTypes
                if world.servers[&server].ails =>
            {
                return;
            }
            Fault::WipeCache | Fault::CacheEvicts | Fault::CacheGoesBack if world.cache_dump().legs.is_empty() => {
                return;
            }
            Fault::Kill => {
                if world.nodes[active].process.is_none() {
                    return;
                }
                world.crash(active);
                world.calendar.after(self.within(300), Happening::Boot { node: active });
            }
            Fault::KillSoon | Fault::Pause | Fault::PauseInSend | Fault::PauseBeyondTheLease => {
                let Some(process) = &world.nodes[active].process else { return };
                let (life, outputs) = (process.life, process.outputs + 1 + self.dice.below(30));
                let longer = Duration::from_millis(self.dice.below(2_000)) + world.options.lease;
                let interrupt = match fault {
                    Fault::KillSoon => Interrupt::Kill { sends: *self.dice.pick(&[0, 1, 2, usize::MAX]).unwrap_or(&0) },
                    Fault::Pause => Interrupt::Pause(span),
                    Fault::PauseInSend if self.dice.chance(0.5) => Interrupt::PauseInSend(span),
                    Fault::PauseInSend => Interrupt::PauseInSend(longer),
                    _ => Interrupt::Pause(longer),
                };
                let drawn = Some((life, self.within(300)));
                world.nodes[active].interrupt = Some(Due { outputs, interrupt, fault: fault.name(), drawn });
                return;
            }
            Fault::StepDown => {
                if !world.step_down(active) {
                    return;
                }
            }
            Fault::CutLink | Fault::CutServer => {
                if fault == Fault::CutLink {
                    world.cut_at(node, server);
                } else {
                    world.cut(server);
                }
                world.later(span, move |world| world.heal(server));
            }
            Fault::SilentCut => {
                let ways: &[Way] = match self.dice.below(3) {
                    0 => &[Way::ToServer],
                    1 => &[Way::ToScheduler],
                    _ => &[Way::ToServer, Way::ToScheduler],
                };
                world.silence(active, server, ways, span);
                world.later(span, move |world| world.unset(Site::Wire(active, server)));
                return world.set(Site::Wire(active, server), fault.name());
            }
            Fault::BreakLink | Fault::Garbage if world.wire(active, server).is_none_or(|wire| !wire.stands()) => {
                return;
            }
            Fault::BreakLink => world.break_link_of(active, server, "a fault"),
            Fault::Garbage => {
                world.session(active, server, |session, now| session.broken(now, "a wrong CRC"));
                world.break_link_of(active, server, "a wrong CRC");
            }
            Fault::CutStore => {
                world.nodes[active].store_cut = true;
                let span = if self.dice.chance(0.3) { span + world.options.lease } else { span };
                world.later(span, move |world| world.nodes[active].store_cut = false);
                return world.set(Site::StoreOf(active), fault.name());
            }
            Fault::StoreDown => {
                world.store_down = true;
                world.later(self.within(longest.max(4_000)), |world| world.store_down = false);
                return world.set(Site::Store, fault.name());
            }
            // Once: a server's word of a higher epoch is acted on once an hour.
            Fault::StoreFailsOver if self.failed_over => return,
            Fault::StoreFailsOver => {
                self.failed_over = true;
                return world.lose_next_grant(span / 2);
            }
            Fault::Clocks => {
                // Ahead: a lease that stands seems to have run out, and two schedulers are sure of theirs. Back: one that has
                // run out seems to stand.
                world.nodes[node].wall_ahead_ms = self.dice.below(86_400_000);
                let by = self.dice.pause(world.options.lease * 3).as_micros() as i128;
                world.store.ahead_us += if self.dice.chance(0.5) { by } else { -by };
            }
            Fault::WipeCache => world.wipe_cache(),
            Fault::CacheEvicts => {
                let cached: Vec<LegId> = world.cache_dump().legs.iter().map(|cached| cached.head.leg).collect();
                let Some(leg) = self.dice.pick(&cached).copied() else { return };
                if self.dice.chance(0.5) {
                    let cache = &world.cache;
                    cache.forget_keys(&[(super::servers::DOMAIN, leg)]).now_or_never().unwrap().unwrap();
                } else {
                    world.cache_evicts(leg);
                }
            }
            Fault::CacheGoesBack => {
                // Its replica takes over, which lacks what was written last.
                let before = world.cache.clone();
                world.later(span, move |world| world.cache_goes_back(before, fault.name()));
                return;
            }
            Fault::CacheDown => {
                world.cache_down = true;
                world.later(span, |world| world.cache_down = false);
                return world.set(Site::Cache, fault.name());
            }
            Fault::CacheReadonly => {
                world.cache_readonly = true;
                world.later(span, |world| world.cache_readonly = false);
                return world.set(Site::CacheWrites, fault.name());
            }
            Fault::StaleKey | Fault::WrongKey => {
                let legs: Vec<LegId> = world.store.legs.keys().copied().collect();
                let Some(kept) = self.dice.pick(&legs).and_then(|leg| world.store.legs.get(leg)) else { return };
                let generation = kept.key.generation - u64::from(fault == Fault::StaleKey);
                let key = RecoveryKey { generation, secret: Secret::new(PLANTED), ..kept.key.clone() };
                let (cache, epoch) = (&world.cache, kept.row.epoch);
                if fault == Fault::WrongKey {
                    world.wrong_keys.insert(key.leg);
                }
                cache.forget_keys(&[(super::servers::DOMAIN, key.leg)]).now_or_never().unwrap().unwrap();
                let leg = key.leg;
                cache.put_keys(epoch, &[key]).now_or_never().unwrap().unwrap();
                return world.set(Site::CachedKey(leg), fault.name());
            }
            Fault::Hang => {
                world.hang(server, self.within(longest.max(9_000)));
                return world.set(Site::Hang(server), fault.name());
            }
            Fault::RestartServer => world.restart_server(server, true),
            Fault::ServerLosesTables => world.restart_server(server, false),
            Fault::Busy => {
                world.ails(server, span, |core| core.set_busy(Some(200)));
                return world.set(Site::Ails(server), fault.name());
            }
            Fault::ServerEndsLeg => {
                let live = world.live_legs(server);
                let Some(leg) = self.dice.pick(&live).map(|leg| leg.leg) else { return };
                world.at_server(server, |core, _| core.end_leg(leg)).unwrap();
            }
            Fault::ForeignLeg => {
                world.at_server(server, |core, now_ms| core.create_foreign(now_ms, None, 1)).unwrap();
            }
            Fault::ClaimedTwice => {
                let live = world.live_legs(server);
                let Some(leg) = self.dice.pick(&live).map(|leg| leg.leg) else { return };
                let other = ServerId(1 + server.0 % 3);
                let named = LegId { meeting: leg.meeting, leg: 0 };
                if world.store.legs.get(&named).is_some_and(|kept| kept.row.server == other) {
                    // Its own server has lost it, and a foreign one under its name is no second claim.
                    return;
                }
                let claims = world.at_server(other, |core, now_ms| core.create_foreign(now_ms, Some(leg.meeting), 1));
                let Ok((leg, _)) = claims else { return };
                self.claimed.push((other, leg));
            }
            Fault::EventsOverflow => {
                if world.at_server(server, |core, _| core.overflow_events()) == 0 {
                    return;
                }
            }
            Fault::RemovalsDropped if world.live_legs(server).is_empty() => return,
            Fault::RemovalsDropped => world.at_server(server, |core, _| core.drop_removals()),
            Fault::LyingCount | Fault::EndlessPages | Fault::WrongDigest | Fault::UnknownTypes => {
                let misbehaviour = match fault {
                    Fault::LyingCount => Misbehaviour::LyingCount,
                    Fault::EndlessPages => Misbehaviour::EndlessPages,
                    Fault::WrongDigest => Misbehaviour::WrongDigest,
                    _ => Misbehaviour::UnknownTypes,
                };
                world.ails(server, span, |core| core.misbehave(misbehaviour));
                return world.set(Site::Ails(server), fault.name());
            }
        }
        world.fault(fault.name());
    }

    /// The meeting gets a further leg, perhaps one that it has, perhaps on a server that carries one.
    fn spread(&mut self, world: &mut World, client: u64, meeting: MeetingId) {
        let leg = 1 + self.dice.below(3) as u16;
        let server = ServerId(self.dice.below(4) as u32);
        world.ask(client, meeting, add_leg(leg, server));
    }

    /// Ordinary life: clients command, terminals come and go.
    fn live(&mut self, world: &mut World) {
        let server = ServerId(1 + self.dice.below(3) as u32);
        let client = 1 + self.dice.below(world.clients.len() as u64);
        let meeting = self.dice.pick(&self.meetings).copied();
        match (self.dice.below(20), meeting) {
            (0..4, _) => {
                let meeting = world.new_meeting();
                self.meetings.push(meeting);
                world.ask(client, meeting, create(meeting, server));
                if self.dice.chance(self.legs) {
                    self.spread(world, client, meeting);
                }
                world.ask(client, meeting, ClientOp::Start);
                if self.dice.chance(self.legs / 2.0) {
                    // While it is being started, and after it.
                    self.spread(world, client, meeting);
                    world.ask(client, meeting, ClientOp::Start);
                }
            }
            (4..10, Some(meeting)) => {
                let terminal = self.dice.below(4) as usize;
                let op = match self.dice.below(7) {
                    0 => add(terminal),
                    1 => tell(terminal, "seat", "4"),
                    2 => ClientOp::RemoveTerminal(RemoveTerminal {
                        number: number(terminal),
                        reason: LeaveReason::Removed,
                    }),
                    3 => ClientOp::Mark(self.dice.chance(0.7)),
                    4 => ClientOp::SetRole(SetRole { role: TerminalRole::Chair, number: number(terminal) }),
                    5 => ClientOp::SetDecode(SetDecode {
                        number: number(terminal),
                        display_mode: DisplayMode::Single,
                        output: Text::cut("1"),
                        codec: MediaCodec::H265,
                        windows: Vec::new(),
                    }),
                    _ => ClientOp::Start,
                };
                world.ask(client, meeting, op);
            }
            (10, Some(meeting)) => {
                world.ask(client, meeting, ClientOp::End);
            }
            (19, Some(meeting)) => {
                // An operator looks, and lifts a quarantine, if there is one.
                if self.dice.chance(0.5) {
                    world.operator(|waiter| Input::DryRun(waiter, vec![server]));
                } else {
                    world.operator(|waiter| Input::LiftQuarantine(waiter, LegId { meeting, leg: 0 }));
                }
            }
            (11, _) => {
                let orphan = world.process().and_then(|process| process.core.orphans().next());
                if let Some((server, handle, leg)) = orphan {
                    let op = ClientOp::Adopt(AdoptOrphan { server, handle, leg, end: self.dice.chance(0.5) });
                    world.ask(client, MeetingId::default(), op);
                }
            }
            _ => world.live_on(server, None, &[*self.dice.pick(&Kind::ALL).unwrap()]),
        }
    }

    fn pause(&mut self) -> Duration {
        match self.dice.below(12) {
            0 => self.dice.pause(Duration::from_secs(1)),
            1..5 => self.dice.pause(Duration::from_millis(60)),
            _ => self.dice.pause(Duration::from_millis(8)),
        }
    }

    /// Faults stop.
    fn stop(&mut self, world: &mut World) {
        for node in 0..world.nodes.len() {
            world.nodes[node].interrupt = None;
            let paused = world.nodes[node].paused_until.since(world.calendar.now());
            world.run_for(paused);
        }
        for server in world.servers.keys().copied().collect::<Vec<_>>() {
            world.heal(server);
            world.wake_server(server);
            world.is_well(server);
        }
        for (server, leg) in self.claimed.drain(..) {
            // It may be over already.
            let _ = world.at_server(server, |core, _| core.end_leg(leg));
        }
        world.fail_over();
        (world.store_down, world.cache_down, world.cache_readonly) = (false, false, false);
        let options = &mut world.options;
        (options.late, options.cache_unsure) = (0.0, 0.0);
        (options.loss, options.doubles, options.disorder, options.unknown_commits) = (0.0, 0.0, false, 0.0);
        for node in 0..world.nodes.len() {
            let machine = &mut world.nodes[node];
            machine.store_cut = false;
            if machine.process.is_none() {
                world.boot(node);
            }
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// How many faults befell, of each kind, with what is drawn for each packet and commit.
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// All of them but for that.
    pub(super) befallen: u64,
    /// Batches that were committed until then.
    pub(super) commits: u64,
}

/// One run: disorder, then quiet.
pub(super) fn disorder(seed: u64) -> Run {
    let mut world = World::new(seed, options(&mut Dice::new(seed, 6)));
    let mut disorder = Disorder::new(seed);
    // The first meetings run before anything goes wrong.
    let unknown = std::mem::take(&mut world.options.unknown_commits);
    for server in 1..=3 {
        disorder.meetings.extend(world.start_meetings(ServerId(server), 2, 2).iter().map(|leg| leg.meeting));
    }
    world.options.unknown_commits = unknown;
    let mut acts = 0;
    while acts < ACTS_MIN || world.befallen < FAULTS_MIN || world.commits < COMMITS_MIN {
        acts += 1;
        world.check_reports();
        assert!(acts < 20 * ACTS_MIN, "the faults of this seed cannot befall: {:?}", world.faults);
        // With a store that is down most of the time what lacks at last is commits.
        if acts < 10 * ACTS_MIN && disorder.dice.chance(disorder.fraction) {
            let fault = *disorder.dice.pick(&disorder.drawn).expect("some fault is on");
            disorder.befall(&mut world, fault);
        } else {
            disorder.live(&mut world);
        }
        let pause = disorder.pause();
        world.run_for(pause);
    }
    let (befallen, commits) = (world.befallen, world.commits);
    disorder.stop(&mut world);
    world.quiet();
    let tombstones = world.servers.values().flat_map(|simulated| simulated.core.dump().legs);
    assert_eq!(tombstones.filter(|leg| leg.state == LegState::Ended).count(), 0, "rule 18: every end was taken");
    world.repeat_everything();
    Run { faults: std::mem::take(&mut world.faults), befallen, commits }
}
