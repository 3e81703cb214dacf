//! What a run came to: a line for people, an object for programs.

use serde::Serialize;

/// One recovery, from the start of the scheduler's process. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Verdict {
    /// Meetings whose servers answered.
    pub meetings: u64,
    /// Their terminals, as filled.
    pub terminals: u64,
    /// Servers, hung ones included.
    pub servers: u32,
    /// Of these accepted connections and answered nothing.
    pub hung: u32,
    /// The part of the meetings that changed meanwhile.
    pub changed: f64,
    /// Records that changed.
    pub changes: u64,
    /// Until the last leg was accepted.
    pub in_control_ms: u64,
    /// Until all but one leg in a hundred were.
    pub in_control_p99_ms: u64,
    /// Until the last row was written and nothing waited for the store or the cache.
    pub backfilled_ms: u64,
    /// Meetings in control a second.
    pub meetings_per_s: u64,
    /// Rows that the scheduler wrote.
    pub rows_written: u64,
    /// Records of content that it read back.
    pub records_read: u64,
    /// What reading, asking, writing and caching the same takes bare; 0 if it was not measured.
    pub floor_ms: u64,
    /// `backfilled_ms` over `floor_ms`; 0 if it was not measured.
    pub ratio_to_floor: f64,
    /// The scheduler's memory once it was quiet.
    pub rss_mib: u64,
    /// The most that it had until then.
    pub rss_peak_mib: u64,
    /// Fields that differ between a server's truth and database or cache, after the last run.
    pub differences: u64,
}

impl Verdict {
    /// What is only known after all runs.
    pub(super) fn measured(&mut self, floor_ms: u64, differences: u64) {
        self.floor_ms = floor_ms;
        self.ratio_to_floor = (self.backfilled_ms as f64 / floor_ms.max(1) as f64 * 100.0).round() / 100.0;
        self.differences = differences;
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn sentence(&self) -> String {
        let Self { meetings, terminals, in_control_ms, in_control_p99_ms, backfilled_ms, meetings_per_s, .. } = self;
        format!(
            "{meetings} meetings with {terminals} terminals in control after {in_control_ms} ms (99 % after \
             {in_control_p99_ms} ms; {meetings_per_s} a second), back-filled after {backfilled_ms} ms; {} rows written, {} \
             records read back; {} MiB, {} at most{}",
            self.rows_written,
            self.records_read,
            self.rss_mib,
            self.rss_peak_mib,
            if self.floor_ms == 0 {
                String::new()
            } else {
                format!("; {} times the floor of {} ms", self.ratio_to_floor, self.floor_ms)
            }
        )
    }
}

/// The run in the middle, by time to control.
pub(super) fn median(runs: &[Verdict]) -> Option<&Verdict> {
    let mut sorted: Vec<&Verdict> = runs.iter().collect();
    sorted.sort_by_key(|run| run.in_control_ms);
    sorted.get(runs.len().saturating_sub(1) / 2).copied()
}
