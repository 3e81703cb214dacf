//! The one event queue: virtual time goes from happening to happening.

use remeet::model::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is to happen when. Ties are in the order of their making, so a run can be repeated.
pub(super) struct Calendar<T> {
    now: Moment,
    next: u64,
    due: BTreeMap<(Moment, u64), T>,
}

impl<T> Calendar<T> {
    pub(super) fn new() -> Self {
        Self { now: Moment(0), next: 0, due: BTreeMap::new() }
    }

    pub(super) fn now(&self) -> Moment {
        self.now
    }

    pub(super) fn after(&mut self, pause: Duration, what: T) {
        self.at(self.now + pause, what);
    }

    /// What lies in the past happens next.
    pub(super) fn at(&mut self, at: Moment, what: T) {
        self.next += 1;
        self.due.insert((at.max(self.now), self.next), what);
    }

    /// The next happening, if one is due by `limit`; time stands at it then. Else time stands at `limit`.
    pub(super) fn next(&mut self, limit: Moment) -> Option<T> {
        match self.due.first_entry() {
            Some(first) if first.key().0 <= limit => {
                let ((at, _), what) = first.remove_entry();
                self.now = at;
                Some(what)
            }
            _ => {
                self.now = self.now.max(limit);
                None
            }
        }
    }
}
