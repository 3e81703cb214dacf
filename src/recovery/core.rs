//! The core: every server's round, every leg's state, what is on its way to the store.

use super::alarm::Conditions;
use super::dry_run::DryRun;
use super::instances::Instances;
use super::lately::Lately;
use super::legs::Legs;
use super::report::Trigger;
use super::round::RoundId;
use super::server::Server;
use super::settings::Settings;
use super::unread::Unread;
use super::{Alarm, AlarmKind, Input, Output, Published, ReadId, ReadResult, Waiter};
use crate::cascade::LegStands;
use crate::model::{CommandId, Moment, StoredLeg, StoredState};
use crate::session::{Heard, Inventory, PersistId, Request, Ticket};
use crate::store::{CacheWrite, Outcome, Unit, Write};
use foldhash::fast::FixedState;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use remeet_protocol::message::{ClientAnswer, Event};
use remeet_protocol::record::Mark;
use remeet_protocol::{BootId, DomainId, ErrorCode, Handle, LegId, MeetingId, ServerId, Token};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use thin_vec::ThinVec;

/// The core. Give it inputs with [`handle`](Self::handle), then drain [`poll`](Self::poll), then arm a
/// timer for [`next_wake`](Self::next_wake).
#[derive(Debug)]
pub struct Core {
    pub(super) settings: Settings,
    pub(super) token: Option<Token>,
    pub(super) now: Moment,
    pub(super) wall_ms: u64,
    pub(super) random: ChaCha20Rng,
    pub(super) servers: BTreeMap<ServerId, Server>,
    pub(super) legs: Legs,
    pub(super) instances: Instances,
    /// Commands whose meeting is being read.
    pub(super) unplaced: BTreeMap<MeetingId, ThinVec<super::commands::Waiting>>,
    /// Commands on a terminal of a meeting of several legs: whose roster has it is being read, one after the other.
    pub(super) unrouted: BTreeMap<MeetingId, ThinVec<super::commands::Waiting>>,
    /// Meetings of which memory holds every leg that is not ended; each has one there.
    pub(super) whole: HashSet<MeetingId, FixedState>,
    /// Ends of legs that subscribers hear of once the meeting's other legs are known.
    pub(super) ends: BTreeMap<MeetingId, Vec<Published>>,
    /// Meetings whose legs must be read and could not be; each has a leg in memory, or an end to tell.
    pub(super) unread_meetings: Unread<MeetingId>,
    /// Commands that wait, in all.
    pub(super) waiting: usize,
    /// Legs that commands wait for, by the deadline of the first.
    pub(super) waits: BTreeSet<(Moment, LegId)>,
    pub(super) after: HashMap<PersistId, (After, Stand), FixedState>,
    pub(super) reads: BTreeMap<ReadId, Reading>,
    pub(super) lately: Lately,
    /// Acceptances among them.
    pub(super) accepting: usize,
    /// Claims that servers have not answered.
    pub(super) claimed: usize,
    /// Servers whose claims wait, each once, in order.
    pub(super) claimants: VecDeque<ServerId>,
    /// Legs that first passes are looking up.
    pub(super) looking_up: usize,
    /// Servers whose first look-up waits, each once, in order.
    pub(super) look_ups: VecDeque<ServerId>,
    /// When these are looked at again at the latest: what keeps them waiting may hang.
    pub(super) look_ups_at: Option<Moment>,
    /// What a ticket was for, so that its answer finds its leg.
    pub(super) tickets: HashMap<Ticket, Asked, FixedState>,
    pub(super) reconcile_at: Option<Moment>,
    /// Legs whose row must be read again and could not be; each leg's lost writes are few.
    pub(super) unread_rows: Unread<LegId>,
    /// Legs of clients' open commands that could not be read, of an instance each time.
    pub(super) unread_open: Unread<Vec<LegId>>,
    /// Legs whose stored rows are to be counted: one read at a time takes all that have gathered.
    pub(super) to_count: Vec<LegId>,
    pub(super) counting: bool,
    /// The names in the cache were asked for since the last comparison of everything.
    pub(super) swept: bool,
    pub(super) dry_runs: Vec<DryRun>,
    /// Conditions that an operator has been told of and that stand.
    pub(super) conditions: Conditions,
    pub(super) last_id: u64,
    outputs: VecDeque<Output>,
}

/// What a request was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The round's inventory, attach or takeover.
    Round(ServerId),
    /// A pull of a leg.
    Pull(LegId),
    /// The first open intent of a leg.
    Intent(LegId, u64),
    /// An adoption.
    Adopt(LegId),
    /// A dry run's inventory.
    DryRun(ServerId, Waiter),
}

/// Open persists for which the room is kept: what clients' commands and events need.
const ROOM_KEPT: usize = 16_384;

/// How legs stand once something is stored.
type Stand = Vec<(LegId, LegStands)>;

/// What follows when something is stored. What is large is boxed: after a restart as many wait as there are legs.
#[derive(Debug)]
pub(super) enum After {
    /// The leg's acceptance (takeover, adoption, start); a start's result is in the same unit.
    Accepted { leg: LegId, started: Option<Box<Started>> },
    /// An event's rows, or its end.
    Event {
        server: ServerId,
        event: Box<Event>,
        /// The cached content that its changes apply to; none if it is behind anyway.
        base: Option<u64>,
    },
    /// Rows of a pull that is not at its end.
    Page,
    /// The last rows of a pull.
    Pulled { server: ServerId, leg: LegId, cache: Option<Box<CacheWrite>> },
    /// The leg is closed by the plan or by a command's result.
    Closed { leg: LegId, answer: Option<Box<ClientAnswer>> },
    /// An intent: it may be sent. The command is answered later.
    Intent(LegId, u64),
    /// A new leg; its client is answered.
    Created { leg: LegId, key: Box<crate::model::RecoveryKey>, answer: Box<ClientAnswer> },
    /// An adopting leg: the request that awaits it is on its way.
    Adopting(LegId),
    /// A command's answer, and the result of its intent on `leg`.
    Answered { leg: Option<LegId>, answer: Option<Box<ClientAnswer>> },
    /// A quarantine or the operator's mark.
    Noted,
    /// Several in one unit.
    All(Vec<After>),
    /// A leg's content adds up again, and is no longer quarantined.
    Lifted(LegId),
}

const _: () = assert!(size_of::<After>() <= 48);

/// The result of a start (or of an adoption) that is stored with the leg's acceptance.
#[derive(Debug)]
pub(super) struct Started {
    /// Its intent: open again if the unit is lost.
    pub number: u64,
    /// Its client's answer.
    pub answer: Option<ClientAnswer>,
}

/// What a read is for.
#[derive(Debug)]
pub(super) enum Reading {
    /// The round's look-up.
    /// With the number of legs, if it is of a first pass.
    RoundLookUp(RoundId, usize),
    /// The round's keys from the cache.
    RoundCache(RoundId, Vec<LegId>),
    /// The round's keys from the database, for what the cache could not give.
    RoundStore(RoundId, Vec<LegId>),
    /// Stamps of the round's legs.
    Stamps(RoundId, Vec<LegId>),
    /// What pulled legs' rows add up to.
    Digests(Vec<LegId>),
    /// Legs that a client's open intents stand on.
    Legs(Vec<LegId>),
    /// Every leg of meetings that commands wait for.
    Meetings(Vec<MeetingId>),
    /// Which legs have the terminal that the meeting's first unrouted command is about.
    Roster(MeetingId, CommandId),
    /// A key of the meeting that gets a further leg by this command.
    AddLeg(Box<super::commands::Waiting>),
    /// A leg whose compare-and-set was lost.
    Again(LegId),
    /// A client's instance.
    Instance(u64),
    /// What a dry run's plan looks at.
    DryRun(ServerId, Waiter, Box<Inventory>),
    /// Which legs are cached.
    CachedNames(DomainId),
}

impl Reading {
    /// The round that asked, if one did.
    fn round(&self) -> Option<RoundId> {
        match self {
            Reading::RoundLookUp(round, _)
            | Reading::RoundCache(round, _)
            | Reading::RoundStore(round, _)
            | Reading::Stamps(round, _) => Some(*round),
            Reading::Digests(_)
            | Reading::Legs(_)
            | Reading::Meetings(_)
            | Reading::Roster(..)
            | Reading::AddLeg(_)
            | Reading::Again(_)
            | Reading::Instance(_)
            | Reading::DryRun(..)
            | Reading::CachedNames(_) => None,
        }
    }
}

impl Reading {
    /// Whether every leg of the meeting is being read.
    pub(super) fn reads_meeting(&self, meeting: MeetingId) -> bool {
        matches!(self, Reading::Meetings(meetings) if meetings.contains(&meeting))
    }
}

impl Core {
    /// A core for the servers of the configuration. `seed` seeds secrets: from the operating system,
    /// except in simulations.
    #[must_use]
    pub fn new(settings: Settings, servers: &[(ServerId, DomainId)], seed: [u8; 32]) -> Self {
        // Of another stream than secrets, which it must not tell anything of.
        let mut hashes = ChaCha20Rng::from_seed(seed);
        hashes.set_stream(1);
        Self {
            instances: Instances::new(settings.instances, settings.answers_per_instance),
            settings,
            token: None,
            now: Moment::default(),
            wall_ms: 0,
            random: ChaCha20Rng::from_seed(seed),
            servers: servers.iter().map(|(id, domain)| (*id, Server::new(*id, *domain))).collect(),
            legs: Legs::new(hashes.next_u64()),
            unplaced: BTreeMap::new(),
            unrouted: BTreeMap::new(),
            whole: HashSet::with_hasher(FixedState::with_seed(hashes.next_u64())),
            ends: BTreeMap::new(),
            unread_meetings: Unread::new(),
            waiting: 0,
            waits: BTreeSet::new(),
            after: HashMap::default(),
            reads: BTreeMap::new(),
            lately: Lately::default(),
            accepting: 0,
            claimed: 0,
            claimants: VecDeque::new(),
            looking_up: 0,
            look_ups: VecDeque::new(),
            look_ups_at: None,
            tickets: HashMap::default(),
            reconcile_at: None,
            unread_rows: Unread::new(),
            unread_open: Unread::new(),
            to_count: Vec::new(),
            counting: false,
            dry_runs: Vec::new(),
            conditions: Conditions::default(),
            swept: false,
            last_id: 0,
            outputs: VecDeque::new(),
        }
    }

    // ---- inputs ----

    /// Takes one input. `wall_ms` (milliseconds since 1970 UTC) is only written down, never compared.
    pub fn handle(&mut self, now: Moment, wall_ms: u64, input: Input) {
        self.now = now;
        self.wall_ms = wall_ms;
        match input {
            Input::TermBegan(token) => self.term_began(token),
            Input::Heard(server, heard) => self.heard(server, heard),
            Input::Written(id, outcome) => self.written(id, outcome),
            Input::Read(id, result) => {
                self.read(id, result);
                self.hand_out_look_ups();
            }
            Input::Cached(legs, outcomes) => self.cached(&legs, outcomes),
            Input::Uncached(leg) => self.uncached(leg),
            Input::Command(command) => self.command(command),
            Input::Reconcile(server) => self.reconcile(server),
            Input::DryRun(waiter, servers) => self.dry_run(waiter, servers),
            Input::LiftQuarantine(waiter, leg) => self.lift_quarantine(waiter, leg),
            Input::Wake => self.wake(),
        }
        self.read_digests();
    }

    fn heard(&mut self, server: ServerId, heard: Heard) {
        match heard {
            Heard::Up { boot, .. } => self.up(server, boot),
            Heard::Down { reason } => self.down(server, reason),
            Heard::Fenced => self.fenced(server),
            Heard::Inventory(ticket, result) => self.inventory(server, ticket, result),
            Heard::Attached(ticket, result) => self.attached(server, ticket, result),
            Heard::Takeover(ticket, result) => self.takeover_answered(server, ticket, result),
            Heard::Pulled(ticket, result) => self.pulled(server, ticket, result),
            Heard::Commanded(ticket, result) => self.commanded(ticket, result),
            Heard::Adopted(ticket, result) => self.adopted(server, ticket, result),
            Heard::Event(event) => self.event(server, event),
            Heard::Gap(gap) => {
                let (first, last) = (gap.first, gap.last);
                tracing::warn!(server = server.0, first, last, "events have not come: everything is compared");
                self.gap(server, gap.last);
                self.want_round(server, Trigger::Reconcile);
                self.try_end_round(server);
            }
            Heard::Misbehaved { reason } => {
                if let Some(known) = self.servers.get_mut(&server) {
                    known.misbehaved += 1;
                    known.trouble = Some(reason.clone());
                }
                self.alarm(AlarmKind::Misbehaviour, Some(server), None, reason);
            }
        }
    }

    fn written(&mut self, id: PersistId, outcome: Outcome) {
        let Some((after, stand)) = self.after.remove(&id) else { return };
        let pulled = if let After::Pulled { server, .. } = &after { Some(*server) } else { None };
        let accepted = matches!(after, After::Accepted { .. });
        self.accepting -= usize::from(accepted);
        match outcome {
            Outcome::Applied { .. } => {
                // An end counts when it is told: of several that are stored together the last one's is the meeting's.
                for (leg, stands) in stand.into_iter().filter(|(_, stands)| stands.state != StoredState::Ended) {
                    if let Some(known) = self.legs.get_mut(&leg) {
                        known.stands = stands;
                    }
                }
                self.stored(id, after);
            }
            Outcome::Lost { version } => {
                // What was to be asked after it, and has not left the core, never will.
                self.outputs.retain(|output| !matches!(output, Output::Ask { after: Some(of), .. } if *of == id));
                self.lost(id, after, version);
            }
        }
        if let Some(server) = pulled {
            self.pull_written(server);
        }
        if accepted {
            self.hand_out_claims();
        }
        // As many persists as there are legs are open after a restart: the room for them is given back.
        if self.after.capacity() > ROOM_KEPT && self.after.len() < self.after.capacity() / 8 {
            self.after.shrink_to(2 * self.after.len());
        }
    }

    fn stored(&mut self, id: PersistId, after: After) {
        match after {
            After::Accepted { leg, started } => {
                self.accepted_stored(id, leg);
                if let Some(started) = started {
                    self.start_stored(id, leg, *started);
                }
            }
            After::Event { server, event, base } => self.event_stored(server, id, *event, base),
            After::Page | After::Noted => {}
            After::All(all) => all.into_iter().for_each(|after| self.stored(id, after)),
            After::Pulled { server, leg, cache } => {
                self.mark_stored(server, leg, id);
                self.pull_stored(leg, cache);
            }
            After::Lifted(leg) => self.answer_lifts(leg, ErrorCode::OK, ""),
            After::Closed { leg, answer } => {
                if let Some(answer) = answer {
                    self.answer_stored(*answer);
                }
                self.closed(id, leg);
            }
            After::Intent(leg, number) => self.intent_stored(leg, number),
            After::Created { leg, key, answer } => self.created(leg, key, *answer),
            After::Adopting(leg) => self.mirror_key(leg),
            After::Answered { leg, answer } => {
                if let Some(answer) = answer {
                    self.answer_stored(*answer);
                }
                if let Some(leg) = leg {
                    self.result_stored(id, leg);
                }
            }
        }
    }

    fn read(&mut self, id: ReadId, mut result: Result<ReadResult, String>) {
        let Some(reading) = self.reads.remove(&id) else { return };
        if let Ok(ReadResult::LookUp(found)) = &mut result {
            self.lately.correct(id, found);
        }
        self.lately.forget(self.reads.keys().next().copied());
        if let Reading::RoundLookUp(_, legs) = &reading {
            self.looking_up -= legs;
        }
        if reading.round().is_some_and(|asked| self.round(asked.server).is_none_or(|round| round.id != asked)) {
            // The round that asked is over. What it read is older than what the present one must know.
            return;
        }
        match (reading, result) {
            (Reading::RoundLookUp(round, _), Ok(ReadResult::LookUp(found))) => {
                self.round_looked_up(round.server, found)
            }
            (Reading::RoundLookUp(round, _), Err(reason)) => {
                self.fail_round(round.server, &format!("look-up: {reason}"))
            }
            (Reading::RoundCache(round, legs), Ok(ReadResult::CachedKeys(keys))) => {
                self.cached_keys(round.server, legs, keys);
            }
            (Reading::RoundCache(round, legs), _) => self.cached_keys(round.server, legs, Vec::new()),
            (Reading::RoundStore(round, legs), Ok(ReadResult::LookUp(found))) => {
                self.stored_keys(round.server, legs, found);
            }
            (Reading::RoundStore(round, _), Err(reason)) => self.fail_round(round.server, &format!("keys: {reason}")),
            (Reading::Stamps(round, legs), Ok(ReadResult::Stamps(stamps))) => {
                self.stamps(round.server, legs, Some(stamps));
            }
            (Reading::Stamps(round, legs), _) => self.stamps(round.server, legs, None),
            (Reading::Digests(legs), Ok(ReadResult::Digests(digests))) => self.digests(legs, digests),
            (Reading::Digests(legs), Err(reason)) => self.digests_failed(legs, &reason),
            (Reading::Legs(legs), Ok(ReadResult::LookUp(found))) => self.legs_read(&legs, found),
            (Reading::Legs(legs), Err(reason)) => self.open_unread(legs, &reason),
            (Reading::Meetings(meetings), Ok(ReadResult::LookUp(found))) => self.meetings_read(meetings, found),
            (Reading::Meetings(meetings), Err(reason)) => self.meetings_unread(meetings, &reason),
            (Reading::Roster(meeting, asker), Ok(ReadResult::Roster(legs))) => {
                self.roster_read(meeting, asker, Ok(legs))
            }
            (Reading::Roster(meeting, asker), Err(reason)) => self.roster_read(meeting, asker, Err(reason)),
            (Reading::AddLeg(waiting), Ok(ReadResult::LookUp(found))) => self.template_read(&waiting, Ok(found)),
            (Reading::AddLeg(waiting), Err(reason)) => self.template_read(&waiting, Err(reason)),
            (Reading::Again(leg), Ok(ReadResult::LookUp(found))) => self.read_again(leg, found),
            (Reading::Again(leg), Err(reason)) => self.unread_again(leg, &reason),
            (Reading::Instance(instance), Ok(ReadResult::Instance(kept))) => self.instance_read(instance, kept),
            (Reading::Instance(instance), Err(reason)) => self.instance_unread(instance, &reason),
            (Reading::DryRun(server, waiter, inventory), Ok(ReadResult::LookUp(found))) => {
                self.dry_run_looked_up(server, waiter, &inventory, Ok(found));
            }
            (Reading::DryRun(server, waiter, inventory), Err(reason)) => {
                self.dry_run_looked_up(server, waiter, &inventory, Err(reason));
            }
            (Reading::CachedNames(domain), Ok(ReadResult::CachedNames(names))) => self.cached_names(domain, Ok(names)),
            (Reading::CachedNames(domain), Err(reason)) => self.cached_names(domain, Err(reason)),
            // The driver answers each read with its own kind of result.
            (reading, Ok(_)) => tracing::error!(?reading, "a read was answered with another kind of result"),
        }
    }

    fn wake(&mut self) {
        self.expire_waiting();
        self.resume_claims();
        self.hand_out_look_ups();
        self.read_rows_again();
        self.read_open_again();
        self.read_meetings_again();
        let due: Vec<(ServerId, Trigger)> = self
            .servers
            .values_mut()
            .filter_map(|server| {
                let (_, trigger) = server.retry_at.take_if(|(at, _)| *at <= self.now)?;
                Some((server.id, trigger))
            })
            .collect();
        for (server, trigger) in due {
            self.want_round(server, trigger);
        }
        let late: Vec<ServerId> = self
            .servers
            .values()
            .filter(|server| server.round.as_ref().is_some_and(|round| round.deadline <= self.now))
            .map(|server| server.id)
            .collect();
        for server in late {
            self.round_is_late(server);
        }
        if self.reconcile_at.is_some_and(|at| at <= self.now) {
            self.reconcile(None);
        }
    }

    /// Compares one server or all; with all of them, the next periodic comparison is put off.
    fn reconcile(&mut self, only: Option<ServerId>) {
        if only.is_none() {
            self.reconcile_at = Some(self.now + self.settings.reconcile_every);
            self.swept = false;
        }
        let servers: Vec<ServerId> =
            self.servers.keys().copied().filter(|server| only.is_none_or(|only| only == *server)).collect();
        for server in servers {
            self.want_round(server, Trigger::Reconcile);
        }
    }

    // ---- outputs ----

    /// The next thing to do. No request awaits a persist whose outcome has come since it was asked: a driver may give
    /// many outcomes before it asks what follows.
    pub fn poll(&mut self) -> Option<Output> {
        Some(match self.outputs.pop_front()? {
            Output::Ask { server, ticket, request, after: Some(id) } if !self.after.contains_key(&id) => {
                Output::Ask { server, ticket, request, after: None }
            }
            output => output,
        })
    }

    /// When to call with [`Input::Wake`] at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Moment> {
        let retries = self.servers.values().filter_map(|server| server.retry_at.map(|(at, _)| at));
        let rounds = self.servers.values().filter_map(|server| server.round.as_ref());
        let deadlines =
            rounds.map(|round| round.paused_until.map_or(round.deadline, |until| until.min(round.deadline)));
        let waiting = self.waiting_until();
        let unread = [self.unread_rows.next(), self.unread_open.next(), self.unread_meetings.next()];
        let unread = unread.into_iter().flatten();
        retries.chain(deadlines).chain(waiting).chain(unread).chain(self.reconcile_at).chain(self.look_ups_at).min()
    }

    // ---- for the other files of the core ----

    pub(super) fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn read_id(&mut self) -> ReadId {
        ReadId(self.next_id())
    }

    /// Hands a unit to the store; `after` follows when it is written.
    pub(super) fn persist(&mut self, lane: u64, unit: Unit, after: After) -> PersistId {
        let id = PersistId(self.next_id());
        let stand = unit.writes.iter().filter_map(|write| match write {
            Write::NewLeg(new) => Some((new.row.leg, LegStands::from(&new.row))),
            Write::State(write) => {
                let row = &self.legs.get(&write.leg)?.row;
                let epoch = write.accepted.map_or(row.epoch, |accepted| accepted.epoch);
                Some((write.leg, LegStands { state: write.state, epoch, server: row.server }))
            }
            _ => None,
        });
        self.accepting += usize::from(matches!(after, After::Accepted { .. }));
        self.after.insert(id, (after, stand.collect()));
        self.put(Output::Persist { id, lane, unit });
        id
    }

    pub(super) fn ask(&mut self, server: ServerId, asked: Asked, request: Request, after: Option<PersistId>) -> Ticket {
        let ticket = Ticket(self.next_id());
        self.tickets.insert(ticket, asked);
        self.put(Output::Ask { server, ticket, request, after });
        ticket
    }

    pub(super) fn alarm(&mut self, kind: AlarmKind, server: Option<ServerId>, leg: Option<LegId>, text: String) {
        self.raise(Alarm { kind, server, leg, text });
    }

    /// Answers a client with a code that is not kept: the command has no effect and may be sent again.
    pub(super) fn answer_now(
        &mut self,
        waiter: Waiter,
        command: &remeet_protocol::message::ClientCommand,
        code: ErrorCode,
        detail: &str,
    ) {
        let answer = super::instances::answer(command, code, detail, command.meeting);
        self.put(Output::Answer(waiter, answer));
    }
}

/// What a client that may ask again is told to wait.
pub(super) fn retry_after_ms(code: ErrorCode) -> u32 {
    match code {
        ErrorCode::RETRY | ErrorCode::UNAVAILABLE => 500,
        ErrorCode::UNREACHABLE => 2_000,
        _ => 0,
    }
}

/// The lane of a leg, which is its meeting's: units of one leg are stored in order, also those of several legs.
pub(super) fn lane(leg: LegId) -> u64 {
    let bytes = leg.meeting.bytes();
    let mut low = [0; 8];
    low.copy_from_slice(&bytes[8..]);
    u64::from_be_bytes(low)
}

/// The place that a leg's content belongs to.
pub(super) fn same_place(row: &StoredLeg, boot: BootId, handle: Handle) -> bool {
    row.boot == Some(boot) && row.handle == Some(handle)
}

/// A mark at nothing.
pub(super) const NOTHING: Mark = Mark { revision: 0, count: 0, digest: remeet_protocol::Digest(0) };
