//! One server's core, driven by hand: every input is given by the test, every output is kept for it. For what
//! needs an order of happenings that a world in virtual time would have to be lucky for.

use crate::plan::HERE;
use remeet::model::{Intent, Moment, RecoveryKey, StoredLeg, StoredState};
use remeet::recovery::{
    Alarm, CacheTask, Core, Input, Output, Published, Read, ReadId, ReadResult, Settings, StoredDigest,
};
use remeet::session::{Heard, Inventory, PersistId, PulledPage, Request, RequestError, TakeoverResults, Ticket};
use remeet::store::{CacheOutcome, ContentWrite, Found, LookUp, Outcome, Unit, Write};
use remeet_protocol::message::{
    Attached, ClientAnswer, EndCause, InventoryEntry, LegState, TakeoverClaim, TakeoverResult,
};
use remeet_protocol::record::{Mark, Number};
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, Change, DomainId, Epoch, ErrorCode, Holder, LegId, Secret, Token};
use std::time::Duration;

pub(crate) const TOKEN: Token = Token { epoch: Epoch(7), holder: Holder(uuid::Uuid::from_bytes([7; 16])) };

/// The core of server [`HERE`] and what it has asked for; the newest stands last.
pub(crate) struct Rig {
    pub(crate) core: Core,
    pub(crate) now: Moment,
    pub(crate) persists: Vec<(PersistId, Unit)>,
    pub(crate) asks: Vec<(Ticket, Request, Option<PersistId>)>,
    pub(crate) reads: Vec<(ReadId, Read)>,
    pub(crate) answers: Vec<ClientAnswer>,
    pub(crate) alarms: Vec<Alarm>,
    pub(crate) alarms_over: Vec<Alarm>,
    /// Event numbers acknowledged.
    pub(crate) acknowledged: Vec<u64>,
    pub(crate) cache_tasks: Vec<CacheTask>,
    pub(crate) published: Vec<Published>,
    /// Newer tokens that the server was heard to have admitted.
    pub(crate) newer: Vec<Token>,
}

impl Rig {
    /// A term has begun and the server is up: its inventory is asked.
    pub(crate) fn new(settings: Settings, boot: BootId) -> Self {
        let core = Core::new(settings, &[(HERE, DomainId(1))], [3; 32]);
        let mut rig = Self {
            core,
            now: Moment(1_000_000),
            persists: Vec::new(),
            asks: Vec::new(),
            reads: Vec::new(),
            answers: Vec::new(),
            alarms: Vec::new(),
            alarms_over: Vec::new(),
            acknowledged: Vec::new(),
            cache_tasks: Vec::new(),
            published: Vec::new(),
            newer: Vec::new(),
        };
        rig.give(Input::TermBegan(TOKEN));
        rig.hear(Heard::Up { boot, table_revision: 1 });
        rig
    }

    pub(crate) fn give(&mut self, input: Input) {
        self.core.handle(self.now, self.now.0 / 1_000, input);
        while let Some(output) = self.core.poll() {
            match output {
                Output::Persist { id, unit, .. } => self.persists.push((id, unit)),
                Output::Ask { ticket, request, after, .. } => self.asks.push((ticket, request, after)),
                Output::Acknowledge { number, .. } => self.acknowledged.push(number),
                Output::Read { id, read } => self.reads.push((id, read)),
                Output::Answer(_, answer) => self.answers.push(answer),
                Output::Alarm(alarm) => self.alarms.push(alarm),
                Output::AlarmOver(alarm) => self.alarms_over.push(alarm),
                Output::Cache(task) => self.cache_tasks.push(task),
                Output::NewerToken { token, .. } => self.newer.push(token),
                Output::Publish(published) => self.published.push(published),
                Output::Planned { .. } => {}
            }
        }
    }

    pub(crate) fn hear(&mut self, heard: Heard) {
        self.give(Input::Heard(HERE, heard));
    }

    /// Time passes.
    pub(crate) fn after(&mut self, pause: Duration) {
        self.now = self.now + pause;
        self.give(Input::Wake);
    }

    /// The ticket of the newest request of a kind.
    pub(crate) fn asked(&self, of: impl Fn(&Request) -> bool) -> Ticket {
        let asked = self.asks.iter().rev().find(|(_, request, _)| of(request));
        asked.unwrap_or_else(|| panic!("it was not asked: {:?}", self.asks)).0
    }

    /// How many requests of a kind were made.
    pub(crate) fn count(&self, of: impl Fn(&Request) -> bool) -> usize {
        self.asks.iter().filter(|(_, request, _)| of(request)).count()
    }

    /// The inventory that was asked last is answered.
    pub(crate) fn inventory(&mut self, boot: BootId, table_revision: u64, entries: Vec<InventoryEntry>) {
        let ticket = self.asked(|request| *request == Request::Inventory);
        self.hear(Heard::Inventory(ticket, Ok(Inventory { boot, table_revision, entries })));
    }

    pub(crate) fn inventory_fails(&mut self, error: RequestError) {
        let ticket = self.asked(|request| *request == Request::Inventory);
        self.hear(Heard::Inventory(ticket, Err(error)));
    }

    pub(crate) fn attach(&mut self, boot: BootId, table_revision: u64) {
        let ticket = self.asked(|request| matches!(request, Request::Attach(_)));
        self.hear(Heard::Attached(ticket, Ok(Attached { session: 1, boot, table_revision })));
    }

    /// The read that was asked last finds these rows, each with its key, and open intents.
    pub(crate) fn look_up(&mut self, rows: &[StoredLeg], open: &[Intent]) {
        let id = self.reads.last().expect("something is read").0;
        let found = rows.iter().map(|row| Found {
            row: row.clone(),
            key: Some(key(row)),
            open: open.iter().filter(|intent| intent.leg == row.leg).cloned().collect(),
        });
        let found = LookUp { found: found.collect(), bad: Vec::new() };
        self.give(Input::Read(id, Ok(ReadResult::LookUp(found))));
    }

    /// One leg is taken over: stored with `stored`, its server has `mark`. Back-fill follows.
    pub(crate) fn take_over(&mut self, boot: BootId, stored: &StoredLeg, mark: Mark) {
        self.accept(boot, stored, mark);
        self.stored();
    }

    /// The same, and the acceptance is on its way to the store.
    pub(crate) fn accept(&mut self, boot: BootId, stored: &StoredLeg, mark: Mark) {
        let handle = stored.handle.expect("a leg that has a place");
        let live = InventoryEntry {
            handle,
            leg: stored.leg,
            state: LegState::Live,
            cause: EndCause::None,
            mark,
            terminals: 1,
            token: TOKEN,
        };
        self.inventory(boot, 10, vec![live]);
        if self.reads.last().is_some_and(|(_, read)| matches!(read, Read::LookUp { .. })) {
            self.look_up(std::slice::from_ref(stored), &[]);
        }
        if !self.core.server_views()[0].attached {
            self.attach(boot, 10);
        }
        if matches!(self.reads.last(), Some((_, Read::CachedKeys(_)))) {
            let id = self.reads.last().expect("just seen").0;
            self.give(Input::Read(id, Err("the cache is away".to_owned())));
            self.look_up(std::slice::from_ref(stored), &[]);
        }
        self.grant(boot, mark);
    }

    /// The legs of each takeover that was asked, in order.
    pub(crate) fn claimed(&self) -> Vec<Vec<LegId>> {
        self.takeovers().map(|(_, claims)| claims.iter().map(|claim| claim.leg).collect()).collect()
    }

    /// The takeover that was asked last is granted: each of its legs has content up to `mark`.
    pub(crate) fn grant(&mut self, boot: BootId, mark: Mark) {
        let (ticket, claims) = self.takeovers().last().expect("something is claimed");
        let result = |claim: &TakeoverClaim| TakeoverResult {
            handle: claim.handle,
            leg: claim.leg,
            code: ErrorCode::OK,
            retry_after_ms: 0,
            mark,
            intent: 0,
        };
        let results = claims.iter().map(result).collect();
        self.hear(Heard::Takeover(ticket, Ok(TakeoverResults { boot, table_revision: 10, results })));
    }

    pub(crate) fn takeovers(&self) -> impl Iterator<Item = (Ticket, &[TakeoverClaim])> {
        self.asks.iter().filter_map(|(ticket, request, _)| match request {
            Request::Takeover(claims) => Some((*ticket, claims.as_slice())),
            _ => None,
        })
    }

    /// Some legs of this takeover are answered, each with its code.
    pub(crate) fn results(&mut self, boot: BootId, ticket: Ticket, codes: &[(u8, ErrorCode)], retry_after_ms: u32) {
        let claims: Vec<TakeoverClaim> =
            self.takeovers().find(|(asked, _)| *asked == ticket).expect("it was asked").1.to_vec();
        let result = |(number, code): &(u8, ErrorCode)| {
            let leg = crate::plan::leg(*number);
            let handle = claims.iter().find(|claim| claim.leg == leg).expect("it was claimed").handle;
            TakeoverResult { handle, leg, code: *code, retry_after_ms, mark: Mark::default(), intent: 0 }
        };
        let results = codes.iter().map(result).collect();
        self.hear(Heard::Takeover(ticket, Ok(TakeoverResults { boot, table_revision: 10, results })));
    }

    /// The claim that was asked last is answered with this code.
    pub(crate) fn claim_answered(&mut self, boot: BootId, stored: &StoredLeg, code: ErrorCode, retry_after_ms: u32) {
        let ticket = self.asked(|request| matches!(request, Request::Takeover(_)));
        let (handle, leg) = (stored.handle.expect("a leg that has a place"), stored.leg);
        let result = TakeoverResult { handle, leg, code, retry_after_ms, mark: Mark::default(), intent: 0 };
        self.hear(Heard::Takeover(ticket, Ok(TakeoverResults { boot, table_revision: 10, results: vec![result] })));
    }

    /// The pull that was asked last comes in one page.
    pub(crate) fn pulled(&mut self, leg: LegId, changes: Vec<Change>, full: bool, mark: Mark) {
        let ticket = self.asked(|request| matches!(request, Request::Pull { .. }));
        self.hear(Heard::Pulled(ticket, Ok(PulledPage { leg, changes, full, complete: Some(mark) })));
    }

    /// The cache says nothing of its stamps.
    pub(crate) fn no_stamps(&mut self) {
        let read = self.reads.iter().rev().find(|(_, read)| matches!(read, Read::Stamps(_)));
        let id = read.expect("stamps are read").0;
        self.give(Input::Read(id, Err("the cache is away".to_owned())));
    }

    /// The rows that are to be counted add up to `mark`, or cannot be read.
    pub(crate) fn counted(&mut self, digest: Result<StoredDigest, String>) {
        let read = self.reads.iter().rev().find(|(_, read)| matches!(read, Read::Digests(_)));
        let id = read.expect("rows are to be counted").0;
        self.give(Input::Read(id, digest.map(|digest| ReadResult::Digests(vec![digest]))));
    }

    /// Every cache task so far is done.
    pub(crate) fn cached(&mut self, leg: LegId) {
        for task in std::mem::take(&mut self.cache_tasks) {
            if matches!(task, CacheTask::Write(_) | CacheTask::Refill(_)) {
                self.give(Input::Cached(vec![leg], Ok(vec![CacheOutcome::Applied])));
            }
        }
    }

    /// What the content writes handed to the store say, in order.
    pub(crate) fn contents(&self) -> Vec<ContentWrite> {
        let writes = self.persists.iter().flat_map(|(_, unit)| &unit.writes);
        let contents = writes.filter_map(|write| match write {
            Write::Content(write) => Some(write.clone()),
            _ => None,
        });
        contents.collect()
    }

    /// Everything that was handed to the store is written.
    pub(crate) fn stored(&mut self) {
        for (id, _) in std::mem::take(&mut self.persists) {
            self.give(Input::Written(id, Outcome::Applied { version: 0 }));
        }
    }

    /// States handed to the store and not written yet.
    pub(crate) fn states(&self) -> Vec<(LegId, StoredState, EndCause)> {
        let writes = self.persists.iter().flat_map(|(_, unit)| &unit.writes);
        let states = writes.filter_map(|write| match write {
            Write::State(write) => Some((write.leg, write.state, write.cause)),
            _ => None,
        });
        states.collect()
    }
}

/// The recovery key of a stored leg.
pub(crate) fn key(row: &StoredLeg) -> RecoveryKey {
    RecoveryKey {
        leg: row.leg,
        domain: row.domain,
        server: row.server,
        secret: Secret::new([9; 16]),
        generation: row.generation,
        number: row.number.clone(),
        title: row.title.clone(),
        creator: Number::default(),
        creator_name: Text::default(),
        made_at_ms: 1,
    }
}
