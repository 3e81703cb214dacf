//! Time as the pure cores see it: an argument.

use serde::Serialize;
use std::ops::Add;
use std::time::Duration;

/// A moment on the monotonic clock of one process (or of one simulation): microseconds since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize)]
pub struct Moment(pub u64);

impl Moment {
    /// The time from `earlier` to `self`; zero if it is later.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}
