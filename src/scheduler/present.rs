//! What outlives the scheduler's lives holds the present one by this.

use crate::sync::{Arc, PoisonError, RwLock};

/// The present value of something that is replaced as a whole; none before the first. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Present<T>(Arc<RwLock<Option<T>>>);

impl<T> Default for Present<T> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(None)))
    }
}

impl<T: Clone> Present<T> {
    /// Another one begins.
    pub(super) fn set(&self, value: T) {
        let before = self.0.write().unwrap_or_else(PoisonError::into_inner).replace(value);
        // Outside the lock: what it holds may take its time to end.
        drop(before);
    }

    /// The present one.
    pub(super) fn get(&self) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
