//! Which units fit. Pure, and the same for both databases: what a unit must satisfy by itself, and
//! which units of a batch lose against given rows.

use super::{Outcome, Unit, Write};
use crate::model::StoredState;
use remeet_protocol::{LegId, Token};
use std::collections::{HashMap, HashSet};

/// The order in which the kinds of a unit's writes are carried out. A later kind may depend on an earlier
/// one: a new leg may have an intent in the same unit. A command's result is behind the content that it changed, as its
/// server tells them: both are written by one wave of statements then.
pub(super) fn order(write: &Write) -> u8 {
    match write {
        Write::NewLeg(_) => 0,
        Write::State(_) => 1,
        Write::Key(_) => 2,
        Write::Intent(_) => 3,
        Write::Content(_) => 4,
        Write::IntentDone(_) => 5,
        Write::Quarantine(..) => 6,
        Write::First(..) => 7,
        Write::Answer(_) => 8,
    }
}

/// A unit's writes in that order.
pub(super) fn ordered_writes(unit: &Unit) -> Vec<&Write> {
    let mut writes: Vec<&Write> = unit.writes.iter().collect();
    writes.sort_by_key(|write| order(write));
    writes
}

/// The outcome of a unit that fitted.
pub(super) fn applied(unit: &Unit) -> Outcome {
    let main = unit.leg();
    let version = unit.writes.iter().filter(|write| write.leg() == main).fold(0, |version, write| match write {
        Write::State(state) => state.expect.version + 1,
        Write::NewLeg(new) => version.max(new.row.version),
        _ => version,
    });
    Outcome::Applied { version }
}

/// The largest number that both databases compare rightly.
const NUMBER_MAX: u64 = i64::MAX.cast_unsigned() - 1;

/// Why a unit can never be written, whatever the rows are. Such a unit is lost, so that a peer's absurd number
/// harms only its own leg.
pub(super) fn unsound(unit: &Unit, token: Token) -> Option<&'static str> {
    let mut single: HashSet<(LegId, u8)> = HashSet::new();
    for write in &unit.writes {
        if let Some(reason) = unsound_write(write, token) {
            return Some(reason);
        }
        let may_repeat = matches!(write, Write::Intent(_) | Write::IntentDone(_) | Write::Answer(_));
        if let Some(leg) = write.leg()
            && !may_repeat
            && !single.insert((leg, order(write)))
        {
            return Some("two writes of one kind for one leg in one unit");
        }
    }
    None
}

fn unsound_write(write: &Write, token: Token) -> Option<&'static str> {
    let numbers: Vec<u64> = match write {
        Write::NewLeg(new) => {
            if new.row.leg != new.key.leg {
                return Some("a new leg with the recovery key of another");
            }
            let row = &new.row;
            let marks = [row.epoch.0, row.table_revision, row.mark.revision, row.intent, row.version];
            marks.into_iter().chain([new.key.generation]).collect()
        }
        Write::State(state) => {
            if !state.expect.state.may_become(state.state) {
                return Some("a change of state that is not legal (rules 4 and 9)");
            }
            if state.accepted.is_some_and(|accepted| accepted.epoch != token.epoch) {
                return Some("an acceptance of another term (rule 7)");
            }
            vec![state.expect.version, state.accepted.map_or(0, |accepted| accepted.table_revision)]
        }
        Write::Content(content) => {
            let mark = content.mark.map_or(0, |mark| mark.revision);
            content.changes.iter().map(|change| change.revision).chain([mark, content.base]).collect()
        }
        Write::Key(key) => vec![key.generation],
        Write::Intent(intent) => vec![intent.number, intent.command.map_or(0, |command| command.number)],
        Write::IntentDone(result) => vec![result.number],
        Write::Answer(answer) => vec![answer.command.number],
        Write::Quarantine(..) | Write::First(..) => Vec::new(),
    };
    numbers.into_iter().any(|number| number > NUMBER_MAX).then_some("a number above 2^63 - 2")
}

/// What decides about units of a leg, as read.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub(super) version: u64,
    pub(super) state: Option<StoredState>,
    /// Generation and secret of the recovery key.
    pub(super) key: Option<(u64, [u8; 16])>,
    /// Those of the asked intent numbers that are taken.
    pub(super) taken: HashSet<u64>,
}

/// Facts of every leg that a batch names; absent: there is no such leg.
pub(super) type Facts = HashMap<LegId, Fact>;

/// Applies the batch to the facts, one unit after the other: `None` for a unit that fits, else its outcome.
pub(super) fn predict(units: &[&Unit], facts: &mut Facts) -> Vec<Option<Outcome>> {
    units.iter().map(|unit| predict_unit(unit, facts)).collect()
}

fn predict_unit(unit: &Unit, facts: &mut Facts) -> Option<Outcome> {
    let mut before: Vec<(LegId, Option<Fact>)> = Vec::new();
    for write in ordered_writes(unit) {
        let Some(leg) = write.leg() else { continue };
        if !before.iter().any(|(known, _)| *known == leg) {
            before.push((leg, facts.get(&leg).cloned()));
        }
        if !fits(write, leg, facts) {
            for (leg, fact) in before {
                match fact {
                    Some(fact) => facts.insert(leg, fact),
                    None => facts.remove(&leg),
                };
            }
            let version = unit.leg().and_then(|leg| facts.get(&leg)).map_or(0, |fact| fact.version);
            return Some(Outcome::Lost { version });
        }
    }
    None
}

fn fits(write: &Write, leg: LegId, facts: &mut Facts) -> bool {
    if let Write::NewLeg(new) = write {
        let key = Some((new.key.generation, *new.key.secret.expose()));
        let fact = Fact { version: new.row.version, state: Some(new.row.state), key, taken: HashSet::new() };
        return facts.insert(leg, fact).is_none();
    }
    let Some(fact) = facts.get_mut(&leg) else { return false };
    match write {
        Write::State(state) => {
            let fits = fact.version == state.expect.version && fact.state == Some(state.expect.state);
            fact.version += 1;
            fact.state = Some(state.state);
            fits
        }
        Write::Key(key) => {
            let next = (key.generation, *key.secret.expose());
            let fits = fact.key.is_none_or(|stands| stands.0 < next.0 || stands == next);
            fact.key = Some(next);
            fits
        }
        Write::Intent(intent) => fact.taken.insert(intent.number),
        _ => true,
    }
}
