//! The one place where the scheduler reads clocks.

use crate::model::Moment;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The process's clocks: monotonic for deadlines, wall for what people read.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // the driver is where clocks may be read
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Now, monotonic.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Now, in milliseconds since 1970 UTC: written down, never compared.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // as above
    pub fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// `moment` as the runtime's timer takes it.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin + Duration::from_micros(moment.0))
    }
}
