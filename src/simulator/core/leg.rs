//! One leg: its records, their revisions, count and digest, and the removals that are still known.
//!
//! Every change goes through [`Leg::set`] or [`Leg::remove`]: each raises the revision by one, changes
//! exactly one record (SPEC R-1) and mends count and digest by one subtraction and one addition. The
//! changes wait in the leg until the table publishes them as events.

use remeet_protocol::message::{CommandAnswer, EndCause};
use remeet_protocol::record::{Change, Digest, LegRow, Mark, Number, Record, RecordKey, RecordState, TerminalRow};
use remeet_protocol::{Handle, LegId, Secret, Token};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// A record that is there.
#[derive(Debug, Clone)]
pub struct Held {
    /// The leg's revision that wrote it.
    pub revision: u64,
    /// Its part of the leg's digest, kept so that a change hashes the new content only.
    pub digest: Digest,
    /// The record.
    pub record: Record,
}

/// What a leg is, beside its records: who may command it and what was last done to it.
#[derive(Debug, Clone)]
pub struct LegHead {
    /// Our name of the leg (the scheduler's, or somebody else's for an orphan).
    pub id: LegId,
    /// The server's name of it.
    pub handle: Handle,
    /// The recovery key's secret.
    pub secret: Secret,
    /// The recovery key's generation.
    pub generation: u64,
    /// Who started it or took it over last; zeros if nobody of ours ever did.
    pub token: Token,
    /// Revision, count and digest of the records. A tombstone keeps those of its end.
    pub mark: Mark,
    /// `None` while the leg lives.
    pub ended: EndCause,
    /// The highest intent number executed.
    pub intent: u64,
    /// Its answer.
    pub kept: Option<CommandAnswer>,
    /// The number of the leg's last event.
    pub last_event: u64,
    /// Removals at or below this revision are forgotten: a pull since an older mark is answered in full.
    pub floor: u64,
}

impl LegHead {
    /// A leg that has just appeared: nothing was done to it yet. `token` is zeros if nobody of ours started it.
    #[must_use]
    pub fn new(id: LegId, handle: Handle, secret: Secret, generation: u64, token: Token) -> Self {
        Self {
            id,
            handle,
            secret,
            generation,
            token,
            mark: Mark::default(),
            ended: EndCause::None,
            intent: 0,
            kept: None,
            last_event: 0,
            floor: 0,
        }
    }
}

/// A leg with its records.
#[derive(Debug, Clone)]
pub struct Leg {
    /// Names, key, fence and mark.
    pub head: LegHead,
    /// Terminals on the roster.
    pub terminals: u16,
    records: BTreeMap<RecordKey, Held>,
    by_revision: BTreeMap<u64, RecordKey>,
    removals: VecDeque<(u64, RecordKey)>,
    removals_max: usize,
    pending: Vec<(Change, Mark)>,
}

impl Leg {
    /// A leg without records. It keeps at most `removals_max` removals for pulls.
    #[must_use]
    pub fn new(head: LegHead, removals_max: usize) -> Self {
        Self {
            head,
            terminals: 0,
            records: BTreeMap::new(),
            by_revision: BTreeMap::new(),
            removals: VecDeque::new(),
            removals_max,
            pending: Vec::new(),
        }
    }

    /// Whether the leg runs.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.head.ended == EndCause::None
    }

    /// Writes a record. A record that agrees already makes no revision.
    pub fn set(&mut self, record: Record) {
        let key = record.key();
        if self.records.get(&key).is_some_and(|held| held.record == record) {
            return;
        }
        let revision = self.head.mark.revision + 1;
        let change = Change { revision, state: RecordState::Present(record) };
        self.apply(&change);
        self.pending.push((change, self.head.mark));
    }

    /// Removes a record, if it is there.
    pub fn remove(&mut self, key: RecordKey) {
        if !self.records.contains_key(&key) {
            return;
        }
        let change = Change { revision: self.head.mark.revision + 1, state: RecordState::Removed(key) };
        self.apply(&change);
        self.pending.push((change, self.head.mark));
    }

    /// Carries out a change that has its revision already: from [`Leg::set`], or read from the journal.
    pub fn apply(&mut self, change: &Change) {
        self.place(change, true);
        self.head.mark.revision = change.revision;
    }

    /// Puts a record or a removal where a snapshot found it; the mark came with the head.
    pub fn restore(&mut self, change: &Change) {
        self.place(change, false);
    }

    fn place(&mut self, change: &Change, count: bool) {
        let key = change.key();
        let old = self.records.remove(&key);
        if let Some(old) = &old {
            self.by_revision.remove(&old.revision);
            if count {
                self.head.mark.count -= 1;
                self.head.mark.digest = self.head.mark.digest.minus(old.digest);
            }
        }
        let is_terminal = matches!(key, RecordKey::Terminal(_));
        match &change.state {
            RecordState::Present(record) => {
                let digest = record.digest();
                if count {
                    self.head.mark.count += 1;
                    self.head.mark.digest = self.head.mark.digest.plus(digest);
                }
                self.terminals += u16::from(is_terminal && old.is_none());
                self.by_revision.insert(change.revision, key.clone());
                self.records.insert(key, Held { revision: change.revision, digest, record: record.clone() });
            }
            RecordState::Removed(_) => {
                self.terminals -= u16::from(is_terminal && old.is_some());
                self.removals.push_back((change.revision, key));
                if self.removals.len() > self.removals_max
                    && let Some((revision, _)) = self.removals.pop_front()
                {
                    self.head.floor = revision;
                }
            }
        }
    }

    /// The changes since the last call, each with the mark after it.
    pub fn take_pending(&mut self) -> Vec<(Change, Mark)> {
        std::mem::take(&mut self.pending)
    }

    /// Becomes a tombstone: the records go, names, mark and intents stay until the ended event is
    /// acknowledged.
    pub fn end(&mut self, cause: EndCause) {
        self.head.ended = cause;
        self.records.clear();
        self.by_revision.clear();
        self.removals.clear();
        self.terminals = 0;
    }

    /// Forgets the removals: pulls since an older mark are answered in full from now on.
    pub fn drop_removals(&mut self) {
        self.removals.clear();
        self.head.floor = self.head.mark.revision;
    }

    /// The leg row. None only before the start wrote it and after the end.
    #[must_use]
    pub fn row(&self) -> Option<&LegRow> {
        match self.records.get(&RecordKey::Leg).map(|held| &held.record) {
            Some(Record::Leg(row)) => Some(row),
            _ => None,
        }
    }

    /// A terminal on the roster.
    #[must_use]
    pub fn terminal(&self, number: &Number) -> Option<&TerminalRow> {
        match self.records.get(&RecordKey::Terminal(number.clone())).map(|held| &held.record) {
            Some(Record::Terminal(row)) => Some(row),
            _ => None,
        }
    }

    /// The terminals on the roster, in order of their numbers.
    pub fn roster(&self) -> impl Iterator<Item = &TerminalRow> {
        let from = Bound::Included(RecordKey::Terminal(Number::default()));
        self.records.range((from, Bound::Unbounded)).map_while(|(_, held)| match &held.record {
            Record::Terminal(row) => Some(row),
            _ => None,
        })
    }

    /// A terminal's windows.
    pub fn windows(&self, number: &Number) -> impl Iterator<Item = RecordKey> {
        let (from, to) = (RecordKey::Window(number.clone(), 0), RecordKey::Window(number.clone(), u8::MAX));
        self.records.range(from..=to).map(|(key, _)| key.clone())
    }

    /// A terminal's extra-information entries.
    pub fn entries(&self, number: &Number) -> impl Iterator<Item = RecordKey> {
        let from = RecordKey::Entry(number.clone(), Default::default());
        self.records.range(from..).map_while(|(key, _)| (key.terminal() == Some(number)).then(|| key.clone()))
    }

    /// A record by its key.
    #[must_use]
    pub fn record(&self, key: &RecordKey) -> Option<&Held> {
        self.records.get(key)
    }

    /// Every record, in order of the keys.
    pub fn records(&self) -> impl Iterator<Item = &Held> {
        self.records.values()
    }

    /// The removals that are still known, in order of revision.
    pub fn removals(&self) -> impl Iterator<Item = Change> {
        self.removals
            .iter()
            .map(|(revision, key)| Change { revision: *revision, state: RecordState::Removed(key.clone()) })
    }

    /// Records, and removals if asked, with a revision in (`after`, `upto`], in order of revision.
    pub fn changes(&self, after: u64, upto: u64, removals: bool) -> impl Iterator<Item = Change> {
        let after = after.min(upto); // a range that ends before it begins would panic
        let mut present = self
            .by_revision
            .range((Bound::Excluded(after), Bound::Included(upto)))
            .filter_map(|(revision, key)| {
                let held = self.records.get(key)?;
                Some(Change { revision: *revision, state: RecordState::Present(held.record.clone()) })
            })
            .peekable();
        let from = if removals { self.removals.partition_point(|(r, _)| *r <= after) } else { self.removals.len() };
        let mut removed = self.removals.range(from..).take_while(move |(revision, _)| *revision <= upto).peekable();
        std::iter::from_fn(move || match (present.peek(), removed.peek()) {
            (Some(change), Some((revision, _))) if change.revision < *revision => present.next(),
            (Some(_), None) => present.next(),
            (_, Some(_)) => removed
                .next()
                .map(|(revision, key)| Change { revision: *revision, state: RecordState::Removed(key.clone()) }),
            (None, None) => None,
        })
    }

    /// Count and digest computed from the records anew: what the incremental ones must equal.
    #[must_use]
    pub fn recomputed(&self) -> Mark {
        let mut mark = Mark { revision: self.head.mark.revision, ..Mark::default() };
        for held in self.records.values() {
            mark.count(&held.record, true);
        }
        mark
    }
}
