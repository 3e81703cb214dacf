//! Who is there now: counted by whoever comes and goes, read by the driver for its status.

use crate::sync::{Arc, AtomicU64, Ordering};

/// How many are present. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Presences(Arc<AtomicU64>);

impl Presences {
    /// Counts somebody as present until the guard is dropped.
    pub(super) fn enter(&self) -> Presence {
        self.0.fetch_add(1, Ordering::Relaxed);
        Presence(self.clone())
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts somebody as present until it is dropped.
#[derive(Debug)]
pub struct Presence(Presences);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
