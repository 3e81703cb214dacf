//! What was said last, so that it is not said again.

use crate::sync::{Mutex, PoisonError};

/// The last text that was heard.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<Option<String>>);

impl Said {
    /// Says `text` unless it was said last. `say` answers whether it was heard: if not, it is said again next time.
    ///
    /// It is said under the lock: of two texts at a time, the one that is remembered must be the one that was heard
    /// last, or the other would stand for ever.
    pub(super) fn say(&self, text: &str, say: impl FnOnce(&str) -> bool) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_deref() != Some(text) {
            *said = say(text).then(|| text.to_owned());
        }
    }
}
