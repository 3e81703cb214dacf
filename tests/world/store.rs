//! The model of the durable store: what `src/store/mod.rs` and `write.rs` promise, in memory.
//!
//! It also remembers what the checks need: every change of state, and which intents a client command made.

use remeet::guard::{Guard, holds};
use remeet::model::{ClientAnswerRow, CommandId, Intent, LegContent, Moment, RecoveryKey, StoredLeg, StoredState};
use remeet::store::{
    Begun, Candidate, ContentWrite, Found, Instance, LookUp, Outcome, RAISE, Standing, StateWrite, Unit, Write,
};
use remeet_protocol::record::{Mark, Number, RecordState};
use remeet_protocol::{Change, Epoch, LegId, MeetingId, RecordKey, ServerId, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Answers that are kept of an instance (design §3).
const ANSWERS_KEPT: usize = 256;

/// Everything stored of a leg.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) row: StoredLeg,
    pub(super) key: RecoveryKey,
    pub(super) records: BTreeMap<RecordKey, Change>,
    pub(super) open: BTreeMap<u64, Intent>,
    /// Numbers of intents, with the term that stored each.
    pub(super) taken: BTreeMap<u64, Epoch>,
    /// A record was written over a higher revision.
    pub(super) fell: bool,
    /// The last term that wrote records.
    pub(super) content_of: Epoch,
    /// The highest revision of each record that was committed, removals among them.
    committed: BTreeMap<RecordKey, u64>,
    /// The same of before a reset, while nobody has heard of the batch that it was in.
    reset: BTreeMap<RecordKey, u64>,
    /// The batch that wrote to the leg last, and the one that reset it.
    batches: (u64, u64),
}

#[derive(Clone, Default)]
pub(super) struct Answers {
    pub(super) kept: BTreeMap<u64, ClientAnswerRow>,
    pruned: u64,
}

/// A change of state that was committed.
#[derive(Debug, Clone)]
pub(super) struct Transition {
    pub(super) before: Option<StoredLeg>,
    pub(super) after: StoredLeg,
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) term: Option<Token>,
    /// The node that the term was granted to, and when its lease ends by the database's clock and how long it is; `None`: it
    /// was released.
    pub(super) lease: (String, Option<(i128, Duration)>),
    /// How far that clock is ahead, in microseconds.
    pub(super) ahead_us: i128,
    pub(super) legs: BTreeMap<LegId, Kept>,
    pub(super) answers: BTreeMap<u64, Answers>,
    /// Changes of state since they were last looked at.
    pub(super) transitions: Vec<Transition>,
    /// The intents that each client command made.
    pub(super) made: BTreeMap<CommandId, Vec<(LegId, u64)>>,
    batch: u64,
}

/// Another term has begun.
#[derive(Debug)]
pub(super) struct Fenced;

impl Store {
    /// Whether an intent of this number was ever stored of the leg.
    pub(super) fn has_intent(&self, leg: LegId, number: u64) -> bool {
        self.legs.get(&leg).is_some_and(|kept| kept.taken.contains_key(&number))
    }

    pub(super) fn roster(&self, meeting: MeetingId, terminal: &Number) -> Vec<LegId> {
        let key = RecordKey::Terminal(terminal.clone());
        let has =
            |(leg, kept): (&LegId, &Kept)| (leg.meeting == meeting && kept.records.contains_key(&key)).then_some(*leg);
        self.legs.iter().filter_map(has).collect()
    }

    pub(super) fn begin_term(&mut self, now: Moment, candidate: Candidate<'_>) -> Begun {
        if let Some(standing) = self.standing(now)
            && standing.keeps_out(candidate.node)
        {
            return Begun::Held(standing);
        }
        let epoch = self.term.map_or(0, |token| token.epoch.0).max(candidate.epoch_above.0) + 1;
        let token = Token { epoch: Epoch(epoch), holder: candidate.holder };
        self.term = Some(token);
        self.lease = (candidate.node.to_owned(), Some(self.lease_from(now, candidate.lease)));
        Begun::Granted(token)
    }

    pub(super) fn standing(&self, now: Moment) -> Option<Standing> {
        let (node, lease) = &self.lease;
        // As `remaining` in src/store/lease.rs: a clock that was set back keeps no dead lease alive.
        let left = |(ends, lasts): (i128, Duration)| {
            let left = Duration::from_micros(u64::try_from(ends - self.clock_us(now)).unwrap_or(0));
            if left > lasts * 2 { Duration::ZERO } else { left.min(lasts) }
        };
        let remaining = lease.map_or(Duration::ZERO, left);
        self.term.map(|token| Standing { token, node: node.clone(), remaining })
    }

    pub(super) fn renew(&mut self, now: Moment, token: Token, lease: Duration) -> Result<(), Fenced> {
        if self.term != Some(token) || self.lease.1.is_none() {
            return Err(Fenced);
        }
        self.lease.1 = Some(self.lease_from(now, lease));
        Ok(())
    }

    fn clock_us(&self, now: Moment) -> i128 {
        i128::from(now.0) + self.ahead_us
    }

    fn lease_from(&self, now: Moment, lasts: Duration) -> (i128, Duration) {
        (self.clock_us(now) + lasts.as_micros() as i128, lasts)
    }

    pub(super) fn release(&mut self, token: Token) -> Result<(), Fenced> {
        if self.term != Some(token) {
            return Err(Fenced);
        }
        self.lease.1 = None;
        Ok(())
    }

    pub(super) fn write(&mut self, token: Token, units: &[&Unit]) -> Result<Vec<Outcome>, Fenced> {
        let checks = |write: &Write| {
            holds(match write {
                Write::NewLeg(_) | Write::State(_) | Write::Key(_) => Guard::TermOfStates,
                Write::Content(_) | Write::Quarantine(..) | Write::First(..) => Guard::TermOfContents,
                Write::Intent(_) | Write::IntentDone(_) => Guard::TermOfIntents,
                Write::Answer(_) => Guard::TermOfAnswers,
            })
        };
        if self.term != Some(token) && units.iter().flat_map(|unit| &unit.writes).any(checks) {
            return Err(Fenced);
        }
        self.batch += 1;
        Ok(units.iter().map(|unit| self.write_unit(token, unit)).collect())
    }

    /// After an unknown commit: raises the version of every row that the units touch, and says which of
    /// them stand (`stood`, as [`Store::write`] answered, or nothing).
    pub(super) fn settle(
        &mut self,
        token: Token,
        units: &[&Unit],
        stood: Option<&[Outcome]>,
    ) -> Result<Vec<Outcome>, Fenced> {
        if self.term != Some(token) {
            return Err(Fenced);
        }
        let touched: BTreeSet<LegId> =
            units.iter().flat_map(|unit| unit.writes.iter().filter_map(Write::leg)).collect();
        // By more than they could, all together: see `Asked::raise` in src/store/settle.rs.
        let states = units.iter().flat_map(|unit| &unit.writes).filter(|write| matches!(write, Write::State(_)));
        let raise = RAISE + states.count() as u64;
        for leg in &touched {
            if let Some(kept) = self.legs.get_mut(leg).filter(|_| holds(Guard::RaisedVersion)) {
                kept.row.version += raise;
            }
        }
        let outcome = |(at, unit): (usize, &&Unit)| {
            let version = unit.leg().and_then(|leg| self.legs.get(&leg)).map_or(0, |kept| kept.row.version);
            match stood.map(|stood| stood[at]) {
                Some(Outcome::Applied { .. }) => Outcome::Applied { version },
                _ => Outcome::Lost { version },
            }
        };
        Ok(units.iter().enumerate().map(outcome).collect())
    }

    fn write_unit(&mut self, token: Token, unit: &Unit) -> Outcome {
        let legs: BTreeSet<LegId> = unit.writes.iter().filter_map(Write::leg).collect();
        let rows: Vec<Option<StoredLeg>> =
            legs.iter().map(|leg| self.legs.get(leg).map(|kept| kept.row.clone())).collect();
        // Only what compares can lose, and is undone then.
        let compares = |write: &Write| {
            matches!(write, Write::NewLeg(_) | Write::State(_) | Write::Key(_) | Write::Intent(_))
                || write.leg().is_some_and(|leg| !self.legs.contains_key(&leg))
        };
        let before: Vec<(LegId, Option<Kept>)> = if unit.writes.iter().any(compares) {
            legs.iter().map(|leg| (*leg, self.legs.get(leg).cloned())).collect()
        } else {
            Vec::new()
        };
        let mut writes: Vec<&Write> = unit.writes.iter().collect();
        writes.sort_by_key(|write| order(write));
        let mut seen = BTreeSet::new();
        let sound = writes.iter().all(|write| {
            let repeats = matches!(write, Write::Intent(_) | Write::IntentDone(_) | Write::Answer(_));
            repeats || write.leg().is_none_or(|leg| seen.insert((leg, order(write))))
        });
        assert!(sound, "two writes of one kind for one leg in one unit can never be stored: {unit:?}");
        let fits = writes.iter().all(|write| self.write_one(token, write));
        let version = unit.leg().and_then(|leg| self.legs.get(&leg)).map(|kept| kept.row.version);
        if fits {
            for (leg, before) in legs.iter().zip(rows) {
                let Some(kept) = self.legs.get(leg) else { continue };
                let place = |row: &StoredLeg| (row.state, row.epoch, row.boot, row.handle);
                if before.as_ref().is_none_or(|before| place(before) != place(&kept.row)) {
                    self.transitions.push(Transition { before, after: kept.row.clone() });
                }
            }
            for write in &unit.writes {
                if let Write::Intent(intent) = write
                    && let Some(command) = intent.command
                {
                    self.made.entry(command).or_default().push((intent.leg, intent.number));
                }
            }
            let states = unit.writes.iter().any(|write| matches!(write, Write::State(_) | Write::NewLeg(_)));
            return Outcome::Applied { version: version.filter(|_| states).unwrap_or(0) };
        }
        for (leg, old) in before {
            match old {
                Some(old) => self.legs.insert(leg, old),
                None => self.legs.remove(&leg),
            };
        }
        let version = unit.leg().and_then(|leg| self.legs.get(&leg)).map_or(0, |kept| kept.row.version);
        Outcome::Lost { version }
    }

    /// Whether it fitted.
    fn write_one(&mut self, token: Token, write: &Write) -> bool {
        match write {
            Write::NewLeg(new) => {
                let kept = Kept {
                    row: new.row.clone(),
                    key: new.key.clone(),
                    records: BTreeMap::new(),
                    open: BTreeMap::new(),
                    taken: BTreeMap::new(),
                    fell: false,
                    content_of: token.epoch,
                    committed: BTreeMap::new(),
                    reset: BTreeMap::new(),
                    batches: (0, 0),
                };
                if self.legs.contains_key(&new.row.leg) {
                    return false;
                }
                self.legs.insert(new.row.leg, kept);
                true
            }
            Write::Answer(answer) => {
                self.answer(answer);
                true
            }
            _ => {
                let Some(kept) = write.leg().and_then(|leg| self.legs.get_mut(&leg)) else { return false };
                kept.batches.0 = self.batch;
                kept.write(token, write)
            }
        }
    }

    fn answer(&mut self, row: &ClientAnswerRow) {
        let answers = self.answers.entry(row.command.instance).or_default();
        if row.command.number > answers.pruned {
            answers.kept.entry(row.command.number).or_insert_with(|| row.clone());
        }
        while answers.kept.len() > ANSWERS_KEPT {
            if let Some((number, _)) = answers.kept.pop_first() {
                answers.pruned = answers.pruned.max(number);
            }
        }
    }

    // ---- reads ----

    pub(super) fn look_up(&self, server: ServerId, legs: &[LegId]) -> LookUp {
        let of_server = |kept: &&Kept| kept.row.server == server && kept.row.state != StoredState::Ended;
        let mut named: BTreeSet<LegId> = legs.iter().copied().collect();
        named.extend(self.legs.values().filter(of_server).map(|kept| kept.row.leg));
        self.found(named)
    }

    pub(super) fn named(&self, legs: &[LegId]) -> LookUp {
        self.found(legs.iter().copied().collect())
    }

    fn found(&self, legs: BTreeSet<LegId>) -> LookUp {
        let found = legs.iter().filter_map(|leg| self.legs.get(leg)).map(|kept| Found {
            row: kept.row.clone(),
            key: Some(kept.key.clone()),
            open: kept.open.values().cloned().collect(),
        });
        LookUp { found: found.collect(), bad: Vec::new() }
    }

    pub(super) fn contents(&self, legs: &[LegId]) -> Vec<LegContent> {
        let content = |kept: &Kept| LegContent {
            leg: kept.row.leg,
            place: kept.row.boot.zip(kept.row.handle),
            mark: kept.row.mark,
            changes: kept.records.values().cloned().collect(),
        };
        legs.iter().filter_map(|leg| self.legs.get(leg)).map(content).collect()
    }

    pub(super) fn instance(&self, instance: u64) -> Instance {
        let answers = self.answers.get(&instance);
        let open = self.legs.values().flat_map(|kept| kept.open.values()).filter_map(|intent| {
            let command = intent.command.filter(|command| command.instance == instance)?;
            Some((command.number, intent.leg, intent.number))
        });
        Instance {
            answers: answers.into_iter().flat_map(|answers| answers.kept.values().cloned()).collect(),
            pruned: answers.map_or(0, |answers| answers.pruned),
            open: open.collect(),
        }
    }
}

impl Kept {
    /// The highest revision of the record that was committed in the leg's present life, or before a reset by the batch
    /// whose outcome is being heard.
    pub(super) fn committed(&self, key: &RecordKey) -> Option<u64> {
        let reset = self.reset.get(key).filter(|_| self.batches.0 == self.batches.1);
        self.committed.get(key).max(reset).copied()
    }

    /// Whether it fitted.
    fn write(&mut self, token: Token, write: &Write) -> bool {
        match write {
            Write::State(write) => return self.state(token, write),
            Write::Content(write) => {
                self.content_of = token.epoch;
                self.content(write);
            }
            Write::Key(key) => {
                let fits = self.key.generation < key.generation || self.key == **key;
                self.key = *key.clone();
                return fits;
            }
            Write::Intent(intent) => {
                self.row.intent = self.row.intent.max(intent.number);
                self.open.insert(intent.number, *intent.clone());
                return self.taken.insert(intent.number, token.epoch).is_none();
            }
            Write::IntentDone(done) => {
                self.open.remove(&done.number);
            }
            Write::Quarantine(_, reason) => {
                self.row.quarantine.clone_from(reason);
            }
            Write::First(_, first) => {
                self.row.first = *first;
            }
            Write::NewLeg(_) | Write::Answer(_) => {}
        }
        true
    }

    fn state(&mut self, token: Token, write: &StateWrite) -> bool {
        assert!(
            write.expect.state.may_become(write.state),
            "{:?} may not become {:?} (rules 4 and 9)",
            write.expect.state,
            write.state
        );
        let fits = self.row.version == write.expect.version && self.row.state == write.expect.state;
        if !fits && holds(Guard::StoredVersion) {
            return false;
        }
        self.row.version += 1;
        self.row.state = write.state;
        self.row.cause = write.cause;
        if let Some(accepted) = write.accepted {
            assert_eq!(accepted.epoch, token.epoch, "an acceptance of another term (rule 7)");
            self.row.epoch = accepted.epoch;
            self.row.boot = Some(accepted.boot);
            self.row.handle = Some(accepted.handle);
            self.row.table_revision = accepted.table_revision;
            if accepted.content_reset {
                self.row.mark = Mark::default();
                self.records.values_mut().for_each(|change| change.revision = 0);
                self.reset = std::mem::take(&mut self.committed);
                self.batches.1 = self.batches.0;
                self.content_of = token.epoch;
            }
        }
        true
    }

    /// Rule 13: over a lower revision only; over an equal one only in a full pull.
    fn content(&mut self, write: &ContentWrite) {
        for change in &write.changes {
            let key = change.key();
            let committed = self.committed.entry(key.clone()).or_default();
            *committed = change.revision.max(*committed);
            let stands = self.records.get(&key);
            let wins = stands.is_none_or(|stands| {
                stands.revision < change.revision || write.full && stands.revision == change.revision
            });
            let wins = wins || !holds(Guard::RecordRevision);
            self.fell |= wins && stands.is_some_and(|stands| change.revision < stands.revision);
            if !wins {
                continue;
            }
            match &change.state {
                RecordState::Present(_) if stands == Some(change) => {}
                RecordState::Present(_) => {
                    self.records.insert(key, change.clone());
                }
                RecordState::Removed(_) => drop(self.records.remove(&key)),
            }
        }
        let Some(mark) = write.mark else { return };
        if write.full {
            let named: BTreeSet<RecordKey> = write.changes.iter().map(Change::key).collect();
            self.records.retain(|key, change| change.revision > mark.revision || named.contains(key));
        }
        if self.row.mark.revision < write.base {
            // What it follows on is lost.
            return;
        }
        if self.row.mark.revision < mark.revision
            || write.full && self.row.mark.revision == mark.revision && self.row.mark != mark
        {
            self.row.mark = mark;
        }
    }
}

/// The order of a unit's writes does not matter: what others need comes first.
fn order(write: &Write) -> u8 {
    match write {
        Write::NewLeg(_) => 0,
        Write::State(_) => 1,
        Write::Key(_) => 2,
        Write::Intent(_) => 3,
        Write::IntentDone(_) => 4,
        Write::Content(_) => 5,
        Write::Quarantine(..) => 6,
        Write::First(..) => 7,
        Write::Answer(_) => 8,
    }
}

#[test]
fn the_model_s_lease_is_held_granted_renewed_and_released_as_the_stores_are() {
    let (mut store, second) = (Store::default(), Duration::from_secs(1));
    let at = |seconds: u32| Moment::default() + second * seconds;
    assert!(store.standing(at(0)).is_none());
    let short = |node| Candidate {
        lease: second * 6,
        holder: remeet_protocol::Holder::from_bytes([1; 16]),
        node,
        epoch_above: Epoch(0),
    };
    let Begun::Granted(first) = store.begin_term(at(0), short("a")) else { panic!("held") };
    let Begun::Held(standing) = store.begin_term(at(2), short("b")) else { panic!("granted") };
    assert_eq!((standing.token, standing.node.as_str(), standing.remaining), (first, "a", second * 4));
    store.renew(at(2), first, second * 6).unwrap();
    assert!(matches!(store.begin_term(at(7), short("b")), Begun::Held(_)));
    // Its own node at once; anybody once it has run out.
    let Begun::Granted(second_term) = store.begin_term(at(7), short("a")) else { panic!("held") };
    assert_eq!(second_term.epoch, Epoch(2));
    assert!(store.renew(at(7), first, second * 600).is_err() && store.release(first).is_err());
    let Begun::Granted(third) = store.begin_term(at(13), short("b")) else { panic!("held") };
    // Released: for good, and granted at once.
    store.release(third).unwrap();
    store.release(third).unwrap();
    assert!(store.renew(at(13), third, second * 6).is_err());
    assert_eq!(store.standing(at(13)).unwrap().remaining, Duration::ZERO);
    let above = Candidate { epoch_above: Epoch(1000), ..short("a") };
    assert!(matches!(store.begin_term(at(13), above), Begun::Granted(token) if token.epoch == Epoch(1001)));
}
