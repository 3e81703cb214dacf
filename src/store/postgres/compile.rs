//! Units to statements. Units of different legs are written side by side, a statement a kind; units of
//! one leg keep their order: where the statements' order would break it, a new wave of statements begins.

use super::columns::Columns;
use super::statements::{self, Step};
use crate::model::{ClientAnswerRow, Intent, IntentResult, RecoveryKey};
use crate::store::judge::{order, ordered_writes};
use crate::store::merge::{Merged, follows};
use crate::store::records::{Sink, Table, Value, put_record};
use crate::store::values::{put_answer, put_done, put_intent, put_key, put_new_leg, put_state};
use crate::store::{NewLeg, StateWrite, Unit, Write};
use remeet_protocol::LegId;
use remeet_protocol::record::Mark;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Batches of which one prunes an instance that it writes answers of: pruning passes over the 256 that are kept, and
/// what is too many is not read anyway. By chance, so that no client's way of numbering can keep it from being done.
const PRUNE_ONE_IN: u32 = 64;
/// So many answers of one instance in a batch are pruned at once.
const PRUNE_AT_ONCE: usize = 128;

/// The statements that write `units`, in order. Counts that do not fit say that some unit loses.
pub(super) fn compile(units: &[&Unit]) -> Vec<Step> {
    let mut waves: Vec<Wave<'_>> = Vec::new();
    let mut last: HashMap<LegId, Last> = HashMap::new();
    for unit in units {
        let writes = ordered_writes(unit);
        let at = writes.iter().filter_map(|write| Some((write.leg()?, write))).fold(0, |at, (leg, write)| {
            let first = match last.get(&leg) {
                None => 0,
                Some(last) if last.kind < order(write) || last.joins(write) => last.wave,
                Some(last) => last.wave + 1,
            };
            at.max(first)
        });
        if waves.len() <= at {
            waves.resize_with(at + 1, Wave::default);
        }
        for write in writes {
            if let Some(leg) = write.leg() {
                let before = last.get(&leg).filter(|last| last.wave == at).and_then(|last| last.mark);
                last.insert(leg, Last::of(at, write, before));
            }
            waves[at].put(write);
        }
    }
    waves.into_iter().flat_map(Wave::steps).collect()
}

/// A leg's last write.
struct Last {
    /// Where it stands.
    wave: usize,
    kind: u8,
    /// It was a full content write.
    full: bool,
    /// The last mark of the wave's content writes.
    mark: Option<Mark>,
}

impl Last {
    fn of(wave: usize, write: &Write, before: Option<Mark>) -> Self {
        let content = if let Write::Content(content) = write { Some(content) } else { None };
        Self {
            wave,
            kind: order(write),
            full: content.is_some_and(|content| content.full),
            mark: content.and_then(|content| content.mark).or(before),
        }
    }

    /// Whether `write` may stand in one statement with this one of its leg.
    fn joins(&self, write: &Write) -> bool {
        self.kind == order(write)
            && match write {
                Write::Content(content) => !self.full && !content.full && follows(self.mark, content),
                // The same intent number twice loses by the count, as it must.
                Write::Intent(_) | Write::IntentDone(_) => true,
                _ => false,
            }
    }
}

/// Writes that may be carried out kind by kind.
#[derive(Default)]
struct Wave<'u> {
    new: BTreeMap<LegId, &'u NewLeg>,
    states: BTreeMap<LegId, &'u StateWrite>,
    keys: BTreeMap<LegId, &'u RecoveryKey>,
    intents: Vec<&'u Intent>,
    done: Vec<&'u IntentResult>,
    contents: BTreeMap<LegId, Merged<'u>>,
    quarantines: BTreeMap<LegId, Option<&'u str>>,
    firsts: BTreeMap<LegId, bool>,
    answers: BTreeMap<(u64, u64), &'u ClientAnswerRow>,
    /// Legs that are written to and must exist.
    touched: BTreeSet<LegId>,
}

impl<'u> Wave<'u> {
    fn put(&mut self, write: &'u Write) {
        if let Some(leg) = write.leg()
            && !matches!(write, Write::NewLeg(_) | Write::State(_))
        {
            self.touched.insert(leg);
        }
        match write {
            Write::NewLeg(new) => drop(self.new.insert(new.row.leg, new)),
            Write::State(state) => drop(self.states.insert(state.leg, state)),
            Write::Key(key) => drop(self.keys.insert(key.leg, key)),
            Write::Intent(intent) => self.intents.push(intent),
            Write::IntentDone(done) => self.done.push(done),
            Write::Content(content) => self.contents.entry(content.leg).or_default().then(content),
            Write::Quarantine(leg, reason) => drop(self.quarantines.insert(*leg, reason.as_deref())),
            Write::First(leg, first) => drop(self.firsts.insert(*leg, *first)),
            // Of one command the first answer stands.
            Write::Answer(answer) => {
                self.answers.entry((answer.command.instance, answer.command.number)).or_insert(answer);
            }
        }
    }

    /// Legs that some statement of the wave proves to exist, by the rows that it counts.
    fn proven(&self) -> BTreeSet<LegId> {
        let stored = self.new.keys().chain(self.states.keys()).copied();
        stored.chain(self.intents.iter().map(|intent| intent.leg)).collect()
    }

    fn steps(self) -> Vec<Step> {
        let mut steps = Vec::new();
        add(&mut steps, rows(self.new.values(), |row, new| put_new_leg(row, new)), statements::new_legs);
        add(&mut steps, rows(self.states.values(), |row, state| put_state(row, state)), statements::states);
        let reset = || self.states.values().filter(|state| state.resets_content());
        if reset().next().is_some() {
            let legs = || rows(reset(), |row, state| row.put_leg(state.leg));
            steps.push(statements::no_marks(legs()));
            steps.extend(Table::ALL.map(|table| statements::reset(table, legs())));
        }
        let proven = self.proven();
        let unproven = self.touched.iter().filter(|leg| !proven.contains(leg));
        add(&mut steps, rows(unproven, |row, leg| row.put_leg(*leg)), statements::exist);
        add(&mut steps, rows(self.keys.values(), |row, key| put_key(row, key)), statements::keys);
        add(&mut steps, rows(self.intents, put_intent), statements::intents);
        put_contents(&self.contents, &mut steps);
        add(&mut steps, rows(self.done, put_done), statements::intents_done);
        let quarantines = rows(self.quarantines, |row, (leg, reason)| {
            row.put_leg(leg);
            row.put(Value::Text(reason));
        });
        add(&mut steps, quarantines, statements::quarantines);
        let firsts = rows(self.firsts, |row, (leg, first)| {
            row.put_leg(leg);
            row.put_truth(first);
        });
        add(&mut steps, firsts, statements::firsts);
        let mut instances: BTreeMap<u64, usize> = BTreeMap::new();
        for (instance, _) in self.answers.keys() {
            *instances.entry(*instance).or_default() += 1;
        }
        instances.retain(|_, answers| *answers >= PRUNE_AT_ONCE || rand::random_ratio(1, PRUNE_ONE_IN));
        add(&mut steps, rows(self.answers.into_values(), put_answer), statements::answers);
        add(
            &mut steps,
            rows(instances.into_keys(), |row, instance| row.put_opaque(instance)),
            statements::prune_instances,
        );
        steps
    }
}

/// Appends a statement if it has rows.
fn add(steps: &mut Vec<Step>, columns: Columns, statement: impl FnOnce(Columns) -> Step) {
    if !columns.is_empty() {
        steps.push(statement(columns));
    }
}

/// Columns of `items`, a row each.
pub(super) fn rows<T>(items: impl IntoIterator<Item = T>, mut put: impl FnMut(&mut Columns, T)) -> Columns {
    let mut columns = Columns::default();
    for item in items {
        put(columns.row(), item);
    }
    columns
}

/// Removals, then what full pulls lack, then records, then marks. Rows are in the order of their keys: neighbours in
/// the index, and the same lock order for all.
fn put_contents(contents: &BTreeMap<LegId, Merged<'_>>, steps: &mut Vec<Step>) {
    for full in [false, true] {
        let legs = || contents.iter().filter(|(_, merged)| merged.full == full);
        let slots = |table| {
            legs().flat_map(move |(leg, merged)| {
                let of_table = merged.slots.iter().filter(move |(key, _)| key.table == table);
                of_table.map(move |(key, slot)| (merged.domain, *leg, key, slot))
            })
        };
        for table in Table::ALL {
            let removals = slots(table).filter_map(|(_, leg, key, slot)| Some((leg, key, slot.removed?)));
            let removals = rows(removals, |row, (leg, key, revision)| {
                row.put_leg(leg);
                key.put(row);
                row.put_ordered(revision);
            });
            add(steps, removals, |columns| statements::removals(table, full, columns));
            let whole = legs().filter_map(|(leg, merged)| Some((*leg, merged.mark.filter(|_| full)?.revision)));
            let whole = rows(whole, |row, (leg, revision)| {
                row.put_leg(leg);
                row.put_ordered(revision);
            });
            let kept = rows(slots(table).filter(|_| full), |row, (_, leg, key, _)| {
                row.put_leg(leg);
                key.put(row);
            });
            add(steps, whole, |legs| statements::lacking(table, legs, kept));
            let present = slots(table).filter_map(|(domain, leg, key, slot)| Some(((domain, leg), key, slot.present?)));
            let present = rows(present, |row, (of, key, (revision, record))| {
                put_record(of, revision, record, *key, row);
            });
            add(steps, present, |columns| statements::records(table, full, columns));
        }
    }
    let marks = contents.iter().filter_map(|(leg, merged)| Some((*leg, merged.mark?, merged.base, merged.full)));
    let marks = rows(marks, |row, (leg, mark, base, full)| {
        row.put_leg(leg);
        row.put_ordered(mark.revision);
        row.put_u32(mark.count);
        row.put_bytes(&mark.digest.bytes());
        row.put_ordered(base);
        row.put_truth(full);
    });
    add(steps, marks, statements::marks);
}
