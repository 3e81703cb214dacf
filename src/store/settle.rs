//! Which units stand after an unknown commit (rule 12). Pure, and the same for both databases.

use super::{ContentWrite, Outcome, StateWrite, Unit, Write};
use crate::model::{CommandId, Intent, RecoveryKey, StoredLeg, StoredState};
use remeet_protocol::record::{RecordKey, RecordState};
use remeet_protocol::{Change, LegId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What is found of a leg after an unknown commit.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
    /// The control row; `None` if it cannot be read.
    pub(super) row: Option<StoredLeg>,
    /// Its recovery key.
    pub(super) key: Option<RecoveryKey>,
    /// The version, raised.
    pub(super) version: u64,
    /// The version that the last state change made.
    pub(super) state_version: u64,
    /// Intents up to this number that are not there were done and pruned.
    pub(super) intents_pruned: u64,
    /// The asked intents that are there, each with whether it is open.
    pub(super) intents: Vec<(Intent, bool)>,
    /// The content, if it was asked for.
    pub(super) content: Vec<Change>,
}

/// What is found after an unknown commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) legs: HashMap<LegId, Evidence>,
    /// Kept answers of the asked instances.
    pub(super) answers: HashSet<CommandId>,
    /// Up to which numbers their answers are pruned.
    pub(super) pruned: HashMap<u64, u64>,
}

/// Whether each unit stands ([`super::Store::settle`]).
pub(super) fn settle(units: &[Unit], found: &Found) -> Vec<Outcome> {
    let mut stands = vec![false; units.len()];
    // From the last: a state change that stands proves the one that it was compared with.
    let mut proven: HashSet<(LegId, u64)> = HashSet::new();
    for (at, unit) in units.iter().enumerate().rev() {
        // What only this unit can have written decides; a unit stands or falls as a whole.
        let definite = |write: &&Write| !matches!(write, Write::Content(_) | Write::Quarantine(..) | Write::First(..));
        let mut deciding: Vec<&Write> = unit.writes.iter().filter(definite).collect();
        if deciding.is_empty() {
            deciding = unit.writes.iter().collect();
        }
        stands[at] = deciding.into_iter().all(|write| write_stands(write, found, &proven));
        if stands[at] {
            proven.extend(unit.writes.iter().filter_map(|write| match write {
                Write::State(state) => Some((state.leg, state.expect.version)),
                _ => None,
            }));
        }
    }
    let version = |unit: &Unit| unit.leg().and_then(|leg| found.legs.get(&leg)).map_or(0, |leg| leg.version);
    let outcome = |(unit, stands)| match (version(unit), stands) {
        (version, true) => Outcome::Applied { version },
        (version, false) => Outcome::Lost { version },
    };
    units.iter().zip(stands).map(outcome).collect()
}

fn write_stands(write: &Write, found: &Found, proven: &HashSet<(LegId, u64)>) -> bool {
    if let Write::Answer(answer) = write {
        let pruned = found.pruned.get(&answer.command.instance).copied().unwrap_or(0);
        return found.answers.contains(&answer.command) || answer.command.number <= pruned;
    }
    let Some(leg) = write.leg().and_then(|leg| found.legs.get(&leg)) else { return false };
    let row = leg.row.as_ref();
    match write {
        Write::NewLeg(new) => leg.key.as_ref().is_some_and(|key| {
            key.generation > new.key.generation
                || (key.generation, &key.secret) == (new.key.generation, &new.key.secret)
        }),
        Write::State(state) => {
            let made = state.expect.version + 1;
            proven.contains(&(state.leg, made)) || leg.state_version == made && row.is_some_and(|row| is_of(row, state))
        }
        Write::Key(key) => leg.key.as_ref() == Some(&**key),
        Write::Intent(intent) => leg.intents.iter().any(|(stored, _)| *stored == **intent),
        Write::IntentDone(done) => match leg.intents.iter().find(|(stored, _)| stored.number == done.number) {
            Some((_, open)) => !open,
            None => done.number <= leg.intents_pruned,
        },
        Write::Content(content) => content_stands(content, leg),
        Write::Quarantine(_, reason) => row.is_some_and(|row| row.quarantine == *reason),
        Write::First(_, first) => row.is_some_and(|row| row.first == *first),
        Write::Answer(_) => false,
    }
}

/// Whether `row` says what `state` wrote.
fn is_of(row: &StoredLeg, state: &StateWrite) -> bool {
    row.state == state.state
        && (state.state != StoredState::Ended || row.cause == state.cause)
        && state.accepted.is_none_or(|accepted| {
            row.epoch == accepted.epoch
                && row.boot == Some(accepted.boot)
                && row.handle == Some(accepted.handle)
                && row.table_revision == accepted.table_revision
        })
}

/// Whether nothing is left for `content` to write. A mark that did not move, because what it follows on is lost, is left
/// to write: written again it stays behind, which the count of the next pull finds.
fn content_stands(content: &ContentWrite, leg: &Evidence) -> bool {
    let stored: HashMap<RecordKey, &Change> = leg.content.iter().map(|change| (change.key(), change)).collect();
    let mark = leg.row.as_ref().map(|row| row.mark);
    let marked = content.mark.is_none_or(|asked| {
        mark.is_some_and(|mark| {
            mark.revision > asked.revision || mark == asked || !content.full && mark.revision == asked.revision
        })
    });
    let changed = content.changes.iter().all(|change| match (&change.state, stored.get(&change.key())) {
        (RecordState::Present(_), None) => false,
        (RecordState::Present(_), Some(stands)) => {
            stands.revision > change.revision
                || stands.revision == change.revision && (!content.full || stands.state == change.state)
        }
        (RecordState::Removed(_), None) => true,
        (RecordState::Removed(_), Some(stands)) => {
            stands.revision > change.revision || stands.revision == change.revision && !content.full
        }
    });
    let named: HashSet<RecordKey> = content.changes.iter().map(Change::key).collect();
    let lacking = content.mark.filter(|_| content.full).is_none_or(|mark| {
        leg.content.iter().all(|change| change.revision > mark.revision || named.contains(&change.key()))
    });
    marked && changed && lacking
}

/// By how much settling raises a row's version beyond what its units could: more changes of state than can ever be
/// queued for one leg, of which each follows from an answer of its server.
pub const RAISE: u64 = 1_000;

/// What settling must look at.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pub(super) legs: Vec<LegId>,
    /// Legs whose content decides.
    pub(super) contents: Vec<LegId>,
    pub(super) intents: Vec<(LegId, u64)>,
    pub(super) instances: Vec<u64>,
    /// By how much the legs' versions are raised: by more than the units could, or a late commit of several, each
    /// compared with the one before, would find the version that it expects half-way; and by more than what is queued
    /// behind them could, which was planned on what is lost now.
    pub(super) raise: u64,
}

impl Asked {
    pub(super) fn of<'u>(units: impl IntoIterator<Item = &'u Unit>) -> Self {
        let (mut legs, mut contents, mut intents, mut instances) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut raise = RAISE;
        for write in units.into_iter().flat_map(|unit| &unit.writes) {
            legs.extend(write.leg());
            match write {
                Write::State(_) => raise += 1,
                Write::Content(content) => drop(contents.insert(content.leg)),
                Write::Intent(intent) => drop(intents.insert((intent.leg, intent.number))),
                Write::IntentDone(done) => drop(intents.insert((done.leg, done.number))),
                Write::Answer(answer) => drop(instances.insert(answer.command.instance)),
                _ => {}
            }
        }
        Self {
            legs: legs.into_iter().collect(),
            contents: contents.into_iter().collect(),
            intents: intents.into_iter().collect(),
            instances: instances.into_iter().collect(),
            raise,
        }
    }

    /// What belongs to `legs` (a part of [`Asked::legs`]), and with `instances` the instances.
    pub(super) fn part(&self, legs: &[LegId], instances: bool) -> Self {
        let of_part = |leg: &LegId| legs.binary_search(leg).is_ok();
        Self {
            legs: legs.to_vec(),
            contents: self.contents.iter().filter(|leg| of_part(leg)).copied().collect(),
            intents: self.intents.iter().filter(|(leg, _)| of_part(leg)).copied().collect(),
            instances: if instances { self.instances.clone() } else { Vec::new() },
            raise: self.raise,
        }
    }
}

impl Found {
    /// With what another part found.
    pub(super) fn extend(&mut self, part: Found) {
        self.legs.extend(part.legs);
        self.answers.extend(part.answers);
        self.pruned.extend(part.pruned);
    }
}
