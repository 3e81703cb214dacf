//! Reads that failed and that nothing goes on without: they are made again after a while.

use crate::model::Moment;

/// What could not be read, and when it is read again.
#[derive(Debug)]
pub(super) struct Unread<T> {
    due: Vec<(Moment, T)>,
}

impl<T> Unread<T> {
    pub(super) fn new() -> Self {
        Self { due: Vec::new() }
    }

    pub(super) fn push(&mut self, at: Moment, what: T) {
        self.due.push((at, what));
    }

    /// What is to be read now.
    pub(super) fn take_due(&mut self, now: Moment) -> Vec<T> {
        self.due.extract_if(.., |(at, _)| *at <= now).map(|(_, what)| what).collect()
    }

    pub(super) fn holds(&self, what: &T) -> bool
    where
        T: PartialEq,
    {
        self.due.iter().any(|(_, held)| held == what)
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.due.iter().map(|(at, _)| *at).min()
    }
}
