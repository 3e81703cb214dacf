//! What a round came to. Rule 6: every leg reported live is exactly one of recovered, pending, orphan or
//! ended, and the report adds up.

use super::StoredDigest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a round began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A term began.
    Restart,
    /// The link to the server came back within a term.
    LinkRestored,
    /// An operator or the periodic reconcile asked, or the server lost events.
    Reconcile,
}

/// Where a recovery key came from (rule 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// The durable store.
    Database,
    /// The cache.
    Cache,
}

/// What became of a leg that its server reported live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// In meeting under this term.
    Recovered,
    /// Live without a key.
    Orphan,
    /// It ended meanwhile, or its end was finished.
    Ended,
    /// Not in control of it yet: why.
    Pending(&'static str),
}

/// A round's report: of one server, or summed over all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Legs that the inventory reported live.
    pub live: u64,
    /// Of these: in meeting under this term.
    pub recovered: u64,
    /// Of these: live without a key.
    pub orphans: u64,
    /// Of these: ended meanwhile, or their end was finished.
    pub ended: u64,
    /// Of these: not in control, by reason.
    pub pending: BTreeMap<String, u64>,
    /// Stored as live, gone without an end: closed with the cause.
    pub vanished: u64,
    /// Tombstones that closed a stored leg.
    pub closed: u64,
    /// Stored as starting, not live: started again.
    pub started: u64,
    /// Keys that the database served.
    pub keys_from_database: u64,
    /// Keys that the cache served.
    pub keys_from_cache: u64,
    /// Legs whose content was pulled since their mark.
    pub pulled: u64,
    /// Legs whose content was pulled whole.
    pub pulled_whole: u64,
    /// Legs whose cached status was refilled.
    pub refilled: u64,
    /// Legs whose back-fill is quarantined.
    pub quarantined: u64,
    /// Legs whose content was to be brought up to date or compared.
    pub contents: u64,
    /// Of these: meeting information stored, read back or vouched for by an equal mark.
    pub informed: u64,
    /// Of these: read back and counted; the others' marks were compared.
    pub read_back: u64,
    /// Meetings and terminals that lack something, by name; the first [`MISSING_MAX`].
    pub missing: Vec<String>,
    /// How many they are.
    pub missing_total: u64,
    /// Terminals on the rosters that were read back.
    pub terminals: u64,
    /// Of these: business, decode and extra state known; the others are stored as unknown.
    pub known: [u64; 3],
    /// When the round began: milliseconds since 1970 UTC.
    pub began_at_ms: u64,
    /// When the last leg was accepted: milliseconds since 1970 UTC; 0 if none was.
    pub in_control_at_ms: u64,
    /// How many legs were accepted when. An answer accepts many, so there are far fewer moments than legs.
    pub accepted_at_ms: BTreeMap<u64, u32>,
    /// When the last back-fill was written: milliseconds since 1970 UTC; 0 if none was.
    pub backfilled_at_ms: u64,
    /// When the round ended: milliseconds since 1970 UTC.
    pub ended_at_ms: u64,
    /// From the round's begin to the last acceptance: milliseconds.
    pub in_control_ms: u64,
    /// From the round's begin to the last back-fill write: milliseconds.
    pub backfilled_ms: u64,
}

/// The most names of missing content that a report carries: enough to see the pattern.
pub const MISSING_MAX: usize = 32;

impl RoundReport {
    /// Counts the content of a leg that was read back and is what its server has (rule 14).
    pub fn count_content(&mut self, digest: &StoredDigest) {
        let leg = digest.leg;
        self.contents += 1;
        self.read_back += 1;
        self.informed += u64::from(digest.information);
        if !digest.information {
            self.lacks(format!("{leg}: no meeting information"));
        }
        self.terminals += u64::from(digest.terminals);
        for (sum, part) in self.known.iter_mut().zip(digest.known) {
            *sum += u64::from(part);
        }
        for (terminal, what) in &digest.lacking {
            self.lacks(format!("{leg} terminal {terminal}: {what} unknown"));
        }
        self.missing_total += u64::from(digest.lacking_total).saturating_sub(digest.lacking.len() as u64);
    }

    /// A leg's mark is its server's: nothing was transferred, nothing read back.
    pub fn content_compared(&mut self) {
        self.contents += 1;
        self.informed += 1;
    }

    /// A leg's content could not be brought up to date, or nobody knows.
    pub fn content_missing(&mut self, what: String) {
        self.contents += 1;
        self.lacks(what);
    }

    fn lacks(&mut self, what: String) {
        self.missing_total += 1;
        if self.missing.len() < MISSING_MAX {
            self.missing.push(what);
        }
    }

    /// Counts a leg's fate.
    pub fn count(&mut self, fate: &Fate) {
        match fate {
            Fate::Recovered => self.recovered += 1,
            Fate::Orphan => self.orphans += 1,
            Fate::Ended => self.ended += 1,
            Fate::Pending(reason) => *self.pending.entry((*reason).to_owned()).or_default() += 1,
        }
    }

    /// Legs pending, whatever the reason.
    #[must_use]
    pub fn pending_total(&self) -> u64 {
        self.pending.values().sum()
    }

    /// When this part of the legs that were accepted had been: 0.99 for all but one in a hundred.
    #[must_use]
    pub fn in_control_at(&self, part: f64) -> Option<u64> {
        let all: u64 = self.accepted_at_ms.values().map(|legs| u64::from(*legs)).sum();
        let mut by_then = 0;
        let is_then = |(_, legs): &(&u64, &u32)| {
            by_then += u64::from(**legs);
            by_then as f64 >= part * all as f64
        };
        self.accepted_at_ms.iter().find(is_then).map(|(at_ms, _)| *at_ms)
    }

    /// Rule 6.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.live == self.recovered + self.orphans + self.ended + self.pending_total()
    }

    /// Adds another server's report; times are the later ones.
    pub fn add(&mut self, other: &RoundReport) {
        self.live += other.live;
        self.recovered += other.recovered;
        self.orphans += other.orphans;
        self.ended += other.ended;
        for (reason, count) in &other.pending {
            *self.pending.entry(reason.clone()).or_default() += count;
        }
        self.vanished += other.vanished;
        self.closed += other.closed;
        self.started += other.started;
        self.keys_from_database += other.keys_from_database;
        self.keys_from_cache += other.keys_from_cache;
        self.pulled += other.pulled;
        self.pulled_whole += other.pulled_whole;
        self.refilled += other.refilled;
        self.quarantined += other.quarantined;
        self.contents += other.contents;
        self.informed += other.informed;
        self.read_back += other.read_back;
        self.missing_total += other.missing_total;
        let room = MISSING_MAX.saturating_sub(self.missing.len());
        self.missing.extend(other.missing.iter().take(room).cloned());
        self.terminals += other.terminals;
        for (sum, part) in self.known.iter_mut().zip(other.known) {
            *sum += part;
        }
        self.began_at_ms = match (self.began_at_ms, other.began_at_ms) {
            (0, at) | (at, 0) => at,
            (one, two) => one.min(two),
        };
        self.in_control_at_ms = self.in_control_at_ms.max(other.in_control_at_ms);
        for (at_ms, legs) in &other.accepted_at_ms {
            *self.accepted_at_ms.entry(*at_ms).or_default() += legs;
        }
        self.backfilled_at_ms = self.backfilled_at_ms.max(other.backfilled_at_ms);
        self.ended_at_ms = self.ended_at_ms.max(other.ended_at_ms);
        self.in_control_ms = self.in_control_ms.max(other.in_control_ms);
        self.backfilled_ms = self.backfilled_ms.max(other.backfilled_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_by_which_a_part_was_accepted_is_that_of_the_last_leg_which_it_needs() {
        let report = RoundReport { accepted_at_ms: [(100, 90), (200, 9), (900, 1)].into(), ..RoundReport::default() };
        assert_eq!(
            [0.5, 0.9, 0.91, 0.99, 1.0].map(|part| report.in_control_at(part)),
            [100, 100, 200, 200, 900].map(Some)
        );
        assert_eq!(RoundReport::default().in_control_at(0.99), None, "nothing was accepted");
        let mut sum = report.clone();
        sum.add(&RoundReport { accepted_at_ms: [(900, 100)].into(), ..RoundReport::default() });
        assert_eq!((sum.in_control_at(0.5), sum.in_control_at(0.4)), (Some(900), Some(100)));
    }
}
