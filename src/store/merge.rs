//! Several content writes of one leg as one: the same end as writing them one after the other, whatever
//! is stored. Only writes that are not `full` are merged.

use super::ContentWrite;
use super::records::KeyRef;
use remeet_protocol::DomainId;
use remeet_protocol::record::{Mark, Record, RecordState};
use std::collections::BTreeMap;

/// What is to be done to one record, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot<'u> {
    /// Remove what is stored with a revision below this.
    pub(super) removed: Option<u64>,
    /// Then store this, unless the stored revision is not below.
    pub(super) present: Option<(u64, &'u Record)>,
}

impl<'u> Slot<'u> {
    /// One more change behind those before.
    fn then(&mut self, revision: u64, state: &'u RecordState) {
        match state {
            RecordState::Present(record) => {
                if self.present.is_some_and(|(stands, _)| revision <= stands) {
                    return;
                }
                self.present = Some((revision, record));
                // What a lower removal would leave, this one replaces anyway.
                if self.removed.is_some_and(|removed| removed <= revision) {
                    self.removed = None;
                }
            }
            RecordState::Removed(_) => {
                if self.present.is_some_and(|(stands, _)| revision <= stands) {
                    return;
                }
                self.present = None;
                self.removed = self.removed.max(Some(revision));
            }
        }
    }
}

/// A leg's content writes, merged.
#[derive(Debug, Default)]
pub(super) struct Merged<'u> {
    pub(super) slots: BTreeMap<KeyRef<'u>, Slot<'u>>,
    pub(super) mark: Option<Mark>,
    /// What it follows on.
    pub(super) base: u64,
    pub(super) domain: DomainId,
    /// The one write is a full one.
    pub(super) full: bool,
}

impl<'u> Merged<'u> {
    /// One more write behind those before. The caller never puts another beside a full one, nor one whose mark does not
    /// follow on theirs ([`follows`]).
    pub(super) fn then(&mut self, write: &'u ContentWrite) {
        (self.full, self.domain) = (write.full, write.domain);
        for change in &write.changes {
            self.slots.entry(KeyRef::of(&change.state)).or_default().then(change.revision, &change.state);
        }
        if let Some(mark) = write.mark
            && self.mark.is_none_or(|stands| stands.revision < mark.revision)
        {
            self.base = self.mark.map_or(write.base, |_| self.base.min(write.base));
            self.mark = Some(mark);
        }
    }
}

/// Whether a write's mark follows on those of the writes before, of which `before` is the last: then both together move a
/// stored mark as one after the other would.
pub(super) fn follows(before: Option<Mark>, write: &ContentWrite) -> bool {
    let (Some(before), Some(mark)) = (before, write.mark) else { return true };
    write.base <= before.revision && before.revision < mark.revision
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use remeet_protocol::record::{RecordKey, WindowRow};

    fn present(errors: u32) -> RecordState {
        RecordState::Present(Record::Window(WindowRow {
            terminal: remeet_protocol::wire::Text::cut("1"),
            window: 1,
            source: remeet_protocol::wire::Text::cut(""),
            channel: 0,
            video: true,
            audio: true,
            codec: 1.into(),
            errors,
        }))
    }

    /// The promise of [`ContentWrite`] for one record, one change after the other.
    fn one_by_one(stored: &mut Option<(u64, Record)>, revision: u64, state: &RecordState) {
        let lower = stored.as_ref().is_none_or(|(stands, _)| *stands < revision);
        match state {
            RecordState::Present(record) if lower => *stored = Some((revision, record.clone())),
            RecordState::Removed(_) if lower => *stored = None,
            _ => {}
        }
    }

    /// What becomes of a stored mark.
    fn moved(stored: u64, base: u64, to: u64) -> u64 {
        if stored >= base { stored.max(to) } else { stored }
    }

    proptest! {
        #[test]
        fn a_merged_mark_moves_as_the_marks_one_after_the_other(
            stored in 0u64..8,
            steps in proptest::collection::vec((0u64..8, 0u64..8), 1..5),
        ) {
            let writes = steps.iter().map(|(base, revision)| ContentWrite {
                leg: remeet_protocol::LegId { meeting: remeet_protocol::MeetingId::default(), leg: 0 },
                domain: DomainId(1),
                changes: Vec::new(),
                base: *base,
                mark: Some(Mark { revision: *revision, ..Mark::default() }),
                full: false,
            });
            let writes: Vec<ContentWrite> = writes.collect();
            let (mut expected, mut together) = (stored, stored);
            let mut merged = Merged::default();
            for write in &writes {
                expected = moved(expected, write.base, write.mark.map_or(0, |mark| mark.revision));
                if !follows(merged.mark, write) {
                    together = moved(together, merged.base, merged.mark.map_or(0, |mark| mark.revision));
                    merged = Merged::default();
                }
                merged.then(write);
            }
            together = moved(together, merged.base, merged.mark.map_or(0, |mark| mark.revision));
            prop_assert_eq!(together, expected);
        }

        #[test]
        fn merged_changes_end_as_changes_one_after_the_other(
            first in proptest::option::of(0u64..8),
            changes in proptest::collection::vec((0u64..8, any::<bool>()), 0..6),
        ) {
            let removed = RecordState::Removed(RecordKey::Window(remeet_protocol::wire::Text::cut("1"), 1));
            let states: Vec<(u64, RecordState)> = changes
                .iter()
                .enumerate()
                .map(|(at, (revision, there))| {
                    let errors = u32::try_from(at).unwrap_or(0);
                    (*revision, if *there { present(errors) } else { removed.clone() })
                })
                .collect();
            let start = first.map(|revision| {
                let RecordState::Present(record) = present(99) else { unreachable!("made present") };
                (revision, record)
            });
            let mut expected = start.clone();
            let mut slot = Slot::default();
            for (revision, state) in &states {
                one_by_one(&mut expected, *revision, state);
                slot.then(*revision, state);
            }
            let mut merged = start;
            if let Some(revision) = slot.removed {
                one_by_one(&mut merged, revision, &removed);
            }
            if let Some((revision, record)) = slot.present {
                one_by_one(&mut merged, revision, &RecordState::Present(record.clone()));
            }
            prop_assert_eq!(merged, expected);
        }
    }
}
