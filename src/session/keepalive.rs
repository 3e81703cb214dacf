//! Is the server there? A keep-alive in idle times, and the limit of silence.

use super::Settings;
use crate::model::Moment;
use std::time::Duration;

/// Moments of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulse {
    last_out: Moment,
    last_in: Moment,
    last_probe: Moment,
    period: Duration,
}

/// The shortest period taken from a server: a lying 0 must not become a flood.
const PERIOD_MIN: Duration = Duration::from_millis(50);

impl Pulse {
    /// The handshake is done.
    pub(super) fn begin(now: Moment, wanted_ms: u32, settings: &Settings) -> Self {
        // Half of what the server expects, so that one late timer does not look like a dead link.
        let wanted = Duration::from_millis(wanted_ms.into()) / 2;
        let period = wanted.clamp(PERIOD_MIN, settings.keep_alive.max(PERIOD_MIN));
        Self { last_out: now, last_in: now, last_probe: now, period }
    }

    /// A packet was handed out.
    pub(super) fn sent(&mut self, now: Moment) {
        self.last_out = now;
    }

    /// A packet came.
    pub(super) fn heard(&mut self, now: Moment) {
        self.last_in = now;
    }

    /// A keep-alive was handed out.
    pub(super) fn probed(&mut self, now: Moment) {
        self.last_probe = now;
    }

    /// When a keep-alive is due: nothing went out for a period, or nothing came in for one.
    pub(super) fn probe_due(&self) -> Moment {
        self.last_probe.max(self.last_out.min(self.last_in)) + self.period
    }

    /// When the server counts as gone.
    pub(super) fn dead_at(&self, settings: &Settings) -> Moment {
        self.last_in + settings.silence_max.max(self.period * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::samples::moment_ms;

    #[test]
    fn a_busy_link_needs_no_probe_and_a_one_sided_one_does() {
        let settings = Settings::default();
        let mut pulse = Pulse::begin(moment_ms(0), 1_000, &settings);
        assert_eq!(pulse.probe_due(), moment_ms(500));
        pulse.sent(moment_ms(400));
        pulse.heard(moment_ms(410));
        assert_eq!(pulse.probe_due(), moment_ms(900));
        pulse.sent(moment_ms(800));
        assert_eq!(pulse.probe_due(), moment_ms(910), "sending alone does not show that the server is there");
        pulse.probed(moment_ms(910));
        assert_eq!(pulse.probe_due(), moment_ms(1_410), "probes keep their period");
        assert_eq!(pulse.dead_at(&settings), moment_ms(6_410));
    }

    #[test]
    fn a_period_of_nothing_is_not_a_flood() {
        let pulse = Pulse::begin(moment_ms(0), 0, &Settings::default());
        assert_eq!(pulse.probe_due(), moment_ms(50));
        let pulse = Pulse::begin(moment_ms(0), u32::MAX, &Settings::default());
        assert_eq!(pulse.probe_due(), moment_ms(1_000));
    }
}
