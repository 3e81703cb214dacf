//! Legs that have ended and left memory while reads were under way. What such a read found of them is older than their
//! end, and must not bring them back (rule 9). Bounded: by the legs that end while one read lasts.

use super::ReadId;
use crate::guard::{Guard, holds};
use crate::model::StoredLeg;
use crate::store::LookUp;
use remeet_protocol::LegId;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Lately {
    /// The row of the end; and the last read that was asked before it.
    ended: BTreeMap<LegId, (ReadId, StoredLeg)>,
}

impl Lately {
    /// A leg leaves memory with its end stored; `last` is the last read that was asked.
    pub(super) fn ended(&mut self, last: ReadId, row: StoredLeg) {
        self.ended.insert(row.leg, (last, row));
    }

    /// Puts the end into what an older read found.
    pub(super) fn correct(&self, read: ReadId, found: &mut LookUp) {
        if self.ended.is_empty() || !holds(Guard::EndedStaysEnded) {
            return;
        }
        for found in &mut found.found {
            let Some((last, row)) = self.ended.get(&found.row.leg) else { continue };
            if read <= *last {
                found.row = row.clone();
                found.open.clear();
            }
        }
    }

    /// `oldest` is the oldest read under way: what was asked later knows of the ends before it.
    pub(super) fn forget(&mut self, oldest: Option<ReadId>) {
        match oldest {
            Some(oldest) => self.ended.retain(|_, (last, _)| oldest <= *last),
            None => self.ended.clear(),
        }
    }
}
