//! Is the client still there? A keep-alive in idle times, and the limit of silence (SPEC H-6).

use std::time::Duration;
use tokio::time::Instant;

/// Periods without a packet after which a client counts as gone.
const SILENT_PERIODS: u32 = 3;

/// Moments of one client's connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulse {
    period: Duration,
    heard: Instant,
    sent: Instant,
    probed: Instant,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// A keep-alive.
    Probe,
    /// The client counts as gone.
    End,
}

impl Pulse {
    pub(super) fn new(period: Duration, now: Instant) -> Self {
        Self { period, heard: now, sent: now, probed: now }
    }

    /// Something came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Something was handed out.
    pub(super) fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// When something is due next.
    pub(super) fn wake(&self) -> Instant {
        self.probe_at().min(self.end_at())
    }

    /// What is due; a probe counts as sent.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        if self.end_at() <= now {
            Due::End
        } else if self.probe_at() <= now {
            self.probed = now;
            Due::Probe
        } else {
            Due::Nothing
        }
    }

    /// How long the client may be silent.
    pub(super) fn silence_max(&self) -> Duration {
        self.period * SILENT_PERIODS
    }

    /// Nothing went out for a period, or nothing came in for one; and the last probe is as old.
    fn probe_at(&self) -> Instant {
        self.probed.max(self.heard.min(self.sent)) + self.period
    }

    fn end_at(&self) -> Instant {
        self.heard + self.silence_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_asked_twice_and_then_given_up_and_a_busy_one_never_asked() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut pulse = Pulse::new(Duration::from_millis(100), begun);
        for busy in (50..=1_000).step_by(50) {
            pulse.heard(at(busy));
            pulse.sent(at(busy));
            assert_eq!(pulse.due(at(busy + 49)), Due::Nothing);
        }
        // Events to it alone do not show that it is there.
        pulse.sent(at(1_090));
        assert_eq!(pulse.wake(), at(1_100));
        assert_eq!(pulse.due(at(1_100)), Due::Probe);
        assert_eq!((pulse.due(at(1_150)), pulse.wake()), (Due::Nothing, at(1_200)));
        assert_eq!((pulse.due(at(1_200)), pulse.wake()), (Due::Probe, at(1_300)));
        assert_eq!(pulse.due(at(1_300)), Due::End);
        pulse.heard(at(1_299));
        pulse.sent(at(1_299));
        assert_eq!((pulse.due(at(1_300)), pulse.wake()), (Due::Nothing, at(1_399)), "it answered in time");
    }

    #[test]
    fn who_is_heard_but_sent_nothing_is_sent_something() {
        let begun = Instant::now();
        let mut pulse = Pulse::new(Duration::from_millis(100), begun);
        pulse.heard(begun + Duration::from_millis(99));
        assert_eq!(pulse.due(begun + Duration::from_millis(100)), Due::Probe);
    }
}
