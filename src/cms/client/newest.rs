//! Of numbered contents of one place, the newest stays, in whatever order their writes are done.

use crate::sync::{Mutex, PoisonError};

/// Number of the newest content written.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<u64>);

impl Newest {
    /// Writes content `number`, unless a newer one is written already. One write at a time.
    ///
    /// # Errors
    /// The write's own; the content before it may be written again.
    pub(super) fn write<E>(&self, number: u64, write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if number > *newest {
            write()?;
            *newest = number;
        }
        Ok(())
    }
}
