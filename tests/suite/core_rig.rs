//! One server's core, driven by hand: every input is given by the test, every output is kept for it. For what
//! needs an order of happenings that a world in virtual time would have to be lucky for.

use crate::plan::HERE;
use remeet::model::{Intent, Moment, RecoveryKey, StoredLeg, StoredState};
use remeet::recovery::{Alarm, Core, Input, Output, Read, ReadId, ReadResult, Settings};
use remeet::session::{Heard, Inventory, PersistId, Request, RequestError, Ticket};
use remeet::store::{Found, LookUp, Outcome, Unit, Write};
use remeet_protocol::message::{Attached, ClientAnswer, EndCause, InventoryEntry};
use remeet_protocol::record::Number;
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, DomainId, Epoch, Holder, LegId, Secret, Token};
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
    /// Event numbers acknowledged.
    pub(crate) acknowledged: Vec<u64>,
    /// Everything else is counted.
    pub(crate) others: usize,
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
            acknowledged: Vec::new(),
            others: 0,
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
                Output::Cache(_) | Output::Publish(_) => self.others += 1,
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
