//! Events of a server that were heard and are not acknowledged, and how far each is. An event is acknowledged when it and
//! all before it are stored.

use crate::session::PersistId;
use std::collections::{BTreeMap, BTreeSet};

/// How far an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its leg is not ours yet.
    Held,
    /// Its rows are on their way to the store.
    Storing(PersistId),
    /// Its rows are stored, or there was nothing to store.
    Stored,
}

/// By number; bounded by the server's window.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    events: BTreeMap<u64, Taken>,
    /// What each persist under way stores, and some events that are elsewhere by now.
    storing: BTreeSet<(PersistId, u64)>,
}

impl Unacknowledged {
    pub(super) fn set(&mut self, number: u64, taken: Taken) {
        if let Taken::Storing(id) = taken {
            self.storing.insert((id, number));
        }
        self.events.insert(number, taken);
    }

    /// Whether the event waits for this persist.
    pub(super) fn waits(&self, number: u64, id: PersistId) -> bool {
        self.events.get(&number) == Some(&Taken::Storing(id))
    }

    /// The persist is written: what waited for it is stored.
    pub(super) fn stored(&mut self, id: PersistId) {
        for number in self.written(id) {
            self.events.insert(number, Taken::Stored);
        }
    }

    /// The persist is written or lost: the events that waited for it.
    pub(super) fn written(&mut self, id: PersistId) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(&(next, number)) = self.storing.range((id, 0)..).next()
            && next == id
        {
            self.storing.remove(&(id, number));
            if self.waits(number, id) {
                numbers.push(number);
            }
        }
        numbers
    }

    /// The number up to which every event is stored now, if that moved.
    pub(super) fn stored_upto(&mut self) -> Option<u64> {
        let mut number = None;
        while let Some(first) = self.events.first_entry()
            && *first.get() == Taken::Stored
        {
            number = Some(first.remove_entry().0);
        }
        number
    }

    /// They belong to a life of the server that is over.
    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.storing.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_acknowledged_in_order_and_each_only_by_the_persist_that_it_waits_for() {
        let mut events = Unacknowledged::default();
        let (one, two) = (PersistId(1), PersistId(2));
        events.set(1, Taken::Storing(one));
        events.set(2, Taken::Storing(two));
        events.set(3, Taken::Storing(one));
        // Its persist was lost, and it is stored by another.
        events.set(3, Taken::Storing(two));
        events.set(4, Taken::Stored);
        events.stored(one);
        assert_eq!(events.stored_upto(), Some(1));
        assert!(events.waits(3, two) && !events.waits(3, one));
        assert_eq!(events.written(two), [2, 3]);
        assert_eq!(events.written(two), [0; 0]);
        events.set(2, Taken::Stored);
        events.set(3, Taken::Stored);
        assert_eq!((events.stored_upto(), events.stored_upto()), (Some(4), None));
        assert!(events.events.is_empty() && events.storing.is_empty());
    }
}
