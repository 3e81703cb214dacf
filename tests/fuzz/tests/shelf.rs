//! Where the recovery core's writes go under fuzzing, so that its reads, and those of a scheduler that starts anew, find
//! them. It keeps the promises that the core builds on (compare-and-set of rows, keys with them, intents until they are
//! done) and no more: terms are not compared, since there is one scheduler at a time.

use remeet::model::{ClientAnswerRow, LegContent};
use remeet::recovery::{Read, ReadResult, StoredDigest};
use remeet::store::{CacheStamp, CachedKey, Found, Instance, LookUp, Outcome, StateWrite, Unit, Write};
use remeet_protocol::record::RecordState;
use remeet_protocol::{Change, LegId, RecordKey};
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct Shelf {
    legs: BTreeMap<LegId, Kept>,
    answers: Vec<ClientAnswerRow>,
}

struct Kept {
    found: Found,
    records: BTreeMap<RecordKey, Change>,
}

impl Shelf {
    /// Whole or not at all.
    pub(crate) fn write(&mut self, unit: &Unit) -> Outcome {
        let misfit =
            unit.writes.iter().find_map(|write| match (write, write.leg().and_then(|leg| self.legs.get(&leg))) {
                (Write::NewLeg(_), Some(kept)) => Some(kept.found.row.version),
                (Write::State(StateWrite { expect, .. }), Some(kept)) => {
                    let row = &kept.found.row;
                    (row.version != expect.version || row.state != expect.state).then_some(row.version)
                }
                (Write::NewLeg(_) | Write::Answer(_), None) | (_, Some(_)) => None,
                // Of a leg that is made in this unit, or of none.
                (write, None) => {
                    let made = |other: &Write| matches!(other, Write::NewLeg(new) if Some(new.row.leg) == write.leg());
                    (!unit.writes.iter().any(made)).then_some(0)
                }
            });
        if let Some(version) = misfit {
            return Outcome::Lost { version };
        }
        let mut version = 0;
        for write in &unit.writes {
            version = self.one(write).unwrap_or(version);
        }
        Outcome::Applied { version }
    }

    fn one(&mut self, write: &Write) -> Option<u64> {
        match write {
            Write::NewLeg(new) => {
                let found = Found { row: new.row.clone(), key: Some(new.key.clone()), open: Vec::new() };
                self.legs.insert(new.row.leg, Kept { found, records: BTreeMap::new() });
            }
            Write::Answer(answer) => self.answers.push(answer.clone()),
            _ => {}
        }
        let Kept { found, records } = self.legs.get_mut(&write.leg()?)?;
        let row = &mut found.row;
        match write {
            Write::State(state) => {
                (row.state, row.cause) = (state.state, state.cause);
                row.version += 1;
                if let Some(accepted) = state.accepted {
                    (row.epoch, row.table_revision) = (accepted.epoch, accepted.table_revision);
                    (row.boot, row.handle) = (Some(accepted.boot), Some(accepted.handle));
                }
            }
            Write::Content(content) => {
                if content.full {
                    records.clear();
                }
                for change in &content.changes {
                    match &change.state {
                        RecordState::Present(record) => records.insert(record.key(), change.clone()),
                        RecordState::Removed(key) => records.remove(key),
                    };
                }
                row.mark = content.mark.unwrap_or(row.mark);
            }
            Write::Key(key) => found.key = Some(*key.clone()),
            Write::Intent(intent) => {
                row.intent = row.intent.max(intent.number);
                found.open.push(*intent.clone());
            }
            Write::IntentDone(done) => found.open.retain(|intent| intent.number != done.number),
            Write::Quarantine(_, reason) => row.quarantine.clone_from(reason),
            Write::First(_, first) => row.first = *first,
            Write::NewLeg(_) | Write::Answer(_) => {}
        }
        Some(found.row.version)
    }

    pub(crate) fn read(&self, read: &Read) -> ReadResult {
        let of = |legs: &[LegId]| legs.iter().filter_map(|leg| self.legs.get(leg)).collect::<Vec<_>>();
        let look_up = |kept: Vec<&Kept>| {
            ReadResult::LookUp(LookUp { found: kept.iter().map(|kept| kept.found.clone()).collect(), bad: Vec::new() })
        };
        match read {
            Read::LookUp { server, legs } => {
                use remeet::model::StoredState::Ended;
                let wanted = |kept: &&Kept| {
                    let row = &kept.found.row;
                    (row.server == *server && row.state != Ended) || legs.contains(&row.leg)
                };
                look_up(self.legs.values().filter(wanted).collect())
            }
            Read::Legs(legs) => look_up(of(legs)),
            Read::Digests(legs) => {
                let content = |kept: &&Kept| LegContent {
                    leg: kept.found.row.leg,
                    place: kept.found.row.boot.zip(kept.found.row.handle),
                    mark: kept.found.row.mark,
                    changes: kept.records.values().cloned().collect(),
                };
                ReadResult::Digests(of(legs).iter().map(|kept| StoredDigest::count(&content(kept))).collect())
            }
            Read::Roster { .. } => ReadResult::Roster(Vec::new()),
            Read::Instance(instance) => {
                let answers = self.answers.iter().filter(|row| row.command.instance == *instance).cloned().collect();
                let open = self.legs.values().flat_map(|kept| &kept.found.open).filter_map(|intent| {
                    let command = intent.command.filter(|command| command.instance == *instance)?;
                    Some((command.number, intent.leg, intent.number))
                });
                ReadResult::Instance(Instance { answers, open: open.collect(), ..Instance::default() })
            }
            // What is cached is the truth, of the newest term.
            Read::CachedKeys(legs) => {
                let legs: Vec<LegId> = legs.iter().map(|(_, leg)| *leg).collect();
                let key = |kept: &Kept| {
                    let (key, row) = (kept.found.key.as_ref()?, &kept.found.row);
                    let (leg, secret, generation) = (key.leg, key.secret.clone(), key.generation);
                    Some(CachedKey { leg, secret, generation, epoch: row.epoch })
                };
                ReadResult::CachedKeys(of(&legs).into_iter().filter_map(key).collect())
            }
            Read::Stamps(legs) => {
                let stamp = |leg: &LegId| {
                    let row = self.legs.get(leg).map(|kept| &kept.found.row);
                    CacheStamp {
                        generation: row.map(|row| row.generation),
                        mark: row.map(|row| row.mark),
                        place: row.and_then(|row| row.boot.zip(row.handle)),
                        state: row.map(|row| row.state.of_meeting()),
                    }
                };
                ReadResult::Stamps(legs.iter().map(|(_, leg)| stamp(leg)).collect())
            }
            Read::CachedNames(_) => ReadResult::CachedNames(self.legs.keys().copied().collect()),
        }
    }
}
