//! A round of the recovery core whose server, store and cache answer at once.

use remeet::model::{LegContent, Moment, RecoveryKey, StoredLeg, StoredState};
use remeet::recovery::{CacheTask, Core, Input, Output, Read, ReadResult, Settings, StoredDigest};
use remeet::session::{Heard, Inventory, PulledPage, Request, TakeoverResults, Ticket};
use remeet::simulator::Fill;
use remeet::store::{CacheOutcome, CacheStamp, Found, LookUp, Outcome};
use remeet_protocol::message::{Attached, EndCause, InventoryEntry, LegState, MeetingState, TakeoverResult};
use remeet_protocol::record::{EntryRow, Mark};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{BootId, Change, DomainId, Epoch, ErrorCode, Handle, Holder, LegId, Record, ServerId, Token};
use std::collections::HashMap;

const SERVER: ServerId = ServerId(1);
const DOMAIN: DomainId = DomainId(1);
const TOKEN: Token = Token { epoch: Epoch(7), holder: Holder(uuid::Uuid::from_bytes([7; 16])) };

/// The legs of a server, as the store and the server have them.
pub(crate) struct Legs {
    boot: BootId,
    found: Vec<Found>,
    entries: Vec<InventoryEntry>,
    places: HashMap<LegId, usize>,
    /// What the server has beyond the stored mark, and what is stored with that.
    changed: HashMap<LegId, (Vec<Change>, LegContent)>,
}

impl Legs {
    /// Each has so many changes that are not stored.
    pub(crate) fn new(fill: &Fill, changes: u32) -> Self {
        let boot = BootId::from_bytes([1; 16]);
        let mut legs =
            Self { boot, found: Vec::new(), entries: Vec::new(), places: HashMap::new(), changed: HashMap::new() };
        for place in fill.first..fill.first + fill.count {
            let handle = Handle(u64::from(place) + 1);
            let mut leg = fill.leg(DOMAIN, place, handle, 0);
            let (id, stored) = (leg.head.id, leg.head.mark);
            for change in 0..changes {
                leg.set(Record::Entry(EntryRow {
                    terminal: Fill::number(place, 1),
                    key: Text::cut(&format!("key {change}")),
                    value: Blob::new("17").unwrap(),
                }));
            }
            let mark = leg.head.mark;
            let row = row(id, boot, handle, stored);
            legs.found.push(Found { key: Some(key(&row, leg.head.secret.clone())), row, open: Vec::new() });
            legs.places.insert(id, legs.entries.len());
            legs.entries.push(InventoryEntry {
                handle,
                leg: id,
                state: LegState::Live,
                cause: EndCause::None,
                mark,
                terminals: fill.terminals,
                token: Token::default(),
            });
            if changes > 0 {
                let all = leg.changes(0, u64::MAX, false).collect();
                let content = LegContent { leg: id, place: Some((boot, handle)), mark, changes: all };
                legs.changed.insert(id, (leg.changes(stored.revision, u64::MAX, false).collect(), content));
            }
        }
        legs
    }

    fn entry(&self, leg: LegId) -> &InventoryEntry {
        &self.entries[self.places[&leg]]
    }
}

fn row(leg: LegId, boot: BootId, handle: Handle, mark: Mark) -> StoredLeg {
    StoredLeg {
        leg,
        domain: DOMAIN,
        server: SERVER,
        state: StoredState::InMeeting,
        cause: EndCause::None,
        epoch: Epoch(6),
        boot: Some(boot),
        handle: Some(handle),
        table_revision: 5,
        mark,
        generation: 1,
        intent: 1,
        first: false,
        quarantine: None,
        version: 3,
        number: Text::cut("7000001"),
        title: Text::cut("Besprechung"),
    }
}

fn key(row: &StoredLeg, secret: remeet_protocol::Secret) -> RecoveryKey {
    RecoveryKey {
        leg: row.leg,
        domain: row.domain,
        server: row.server,
        secret,
        generation: row.generation,
        number: row.number.clone(),
        title: row.title.clone(),
        creator: Text::default(),
        creator_name: Text::default(),
        made_at_ms: 1,
    }
}

/// A round under way.
pub(crate) struct Rehearsal<'a> {
    legs: &'a Legs,
    core: Core,
    now: Moment,
    inventory: Option<(Inventory, LookUp)>,
    claims: Vec<(Ticket, Vec<TakeoverResult>)>,
}

impl<'a> Rehearsal<'a> {
    /// The server is up and its inventory asked for. What the answers hold is made here, not while it is measured.
    pub(crate) fn new(legs: &'a Legs) -> Self {
        let mut core = Core::new(Settings::default(), &[(SERVER, DOMAIN)], [3; 32]);
        let now = Moment(1_000_000);
        core.handle(now, 1_000, Input::TermBegan(TOKEN));
        core.handle(now, 1_000, Input::Heard(SERVER, Heard::Up { boot: legs.boot, table_revision: 9 }));
        let inventory = Inventory { boot: legs.boot, table_revision: 9, entries: legs.entries.clone() };
        let found = LookUp { found: legs.found.clone(), bad: Vec::new() };
        Self { legs, core, now, inventory: Some((inventory, found)), claims: Vec::new() }
    }

    fn give(&mut self, input: Input) {
        self.core.handle(self.now, 1_000, input);
    }

    /// Answers how many claims were made.
    pub(crate) fn until_claims(&mut self) -> usize {
        let mut look_up = None;
        while let Some(output) = self.core.poll() {
            match output {
                Output::Ask { ticket, request: Request::Inventory, .. } => {
                    if let Some((inventory, found)) = self.inventory.take() {
                        look_up = Some(found);
                        self.give(Input::Heard(SERVER, Heard::Inventory(ticket, Ok(inventory))));
                    }
                }
                Output::Ask { ticket, request: Request::Attach(_), .. } => {
                    let attached = Attached { session: 1, boot: self.legs.boot, table_revision: 9 };
                    self.give(Input::Heard(SERVER, Heard::Attached(ticket, Ok(attached))));
                }
                Output::Read { id, read: Read::LookUp { .. } | Read::Legs(_) } => {
                    let found = look_up.take().unwrap_or_default();
                    self.give(Input::Read(id, Ok(ReadResult::LookUp(found))));
                }
                Output::Ask { ticket, request: Request::Takeover(claims), .. } => {
                    let result = |claim: &remeet_protocol::message::TakeoverClaim| TakeoverResult {
                        handle: claim.handle,
                        leg: claim.leg,
                        code: ErrorCode::OK,
                        retry_after_ms: 0,
                        mark: Mark::default(),
                        intent: 1,
                    };
                    self.claims.push((ticket, claims.iter().map(result).collect()));
                }
                _ => {}
            }
        }
        self.claims.iter().map(|(_, claims)| claims.len()).sum()
    }

    /// Answers how many legs were accepted, and how many pulled.
    pub(crate) fn until_the_end(&mut self) -> (usize, usize) {
        let (mut accepted, mut pulled) = (0, 0);
        for (ticket, mut results) in std::mem::take(&mut self.claims) {
            results.iter_mut().for_each(|result| result.mark = self.legs.entry(result.leg).mark);
            accepted += results.len();
            let results = TakeoverResults { boot: self.legs.boot, table_revision: 9, results };
            self.give(Input::Heard(SERVER, Heard::Takeover(ticket, Ok(results))));
        }
        while let Some(output) = self.core.poll() {
            match output {
                Output::Persist { id, .. } => self.give(Input::Written(id, Outcome::Applied { version: 0 })),
                Output::Ask { ticket, request: Request::Pull { leg, .. }, .. } => {
                    let (changes, content) = self.legs.changed[&leg].clone();
                    pulled += 1;
                    let page = PulledPage { leg, changes, full: false, complete: Some(content.mark) };
                    self.give(Input::Heard(SERVER, Heard::Pulled(ticket, Ok(page))));
                }
                Output::Read { id, read: Read::Digests(legs) } => {
                    let digests = legs.iter().map(|leg| StoredDigest::count(&self.legs.changed[leg].1)).collect();
                    self.give(Input::Read(id, Ok(ReadResult::Digests(digests))));
                }
                Output::Read { id, read: Read::Stamps(legs) } => {
                    let stamps = legs.iter().map(|(_, leg)| self.stamp(*leg)).collect();
                    self.give(Input::Read(id, Ok(ReadResult::Stamps(stamps))));
                }
                Output::Read { id, .. } => self.give(Input::Read(id, Err("nothing there".to_owned()))),
                Output::Cache(CacheTask::Write(write)) => {
                    self.give(Input::Cached(vec![write.head.leg], Ok(vec![CacheOutcome::Applied])));
                }
                Output::Cache(CacheTask::Refill(head)) => {
                    self.give(Input::Cached(vec![head.leg], Ok(vec![CacheOutcome::Applied])));
                }
                _ => {}
            }
        }
        (accepted, pulled)
    }

    fn stamp(&self, leg: LegId) -> CacheStamp {
        let entry = self.legs.entry(leg);
        CacheStamp {
            generation: Some(1),
            mark: Some(entry.mark),
            place: Some((self.legs.boot, entry.handle)),
            state: Some(MeetingState::InMeeting),
        }
    }
}
