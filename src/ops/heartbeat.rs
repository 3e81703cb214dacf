//! Whether a loop that must never stand still goes on.

use crate::sync::{Arc, AtomicU64, Ordering};

/// Counts the rounds of such a loop. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// One round more.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Rounds so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Looks at a heartbeat now and then.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<u64>,
}

impl Watch {
    /// Whether the loop has moved since the last look; the first finds that it has.
    pub(super) fn moved(&mut self, heartbeat: &Heartbeat) -> bool {
        let count = heartbeat.count();
        self.seen.replace(count) != Some(count)
    }
}
