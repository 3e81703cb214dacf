//! The updates that one connection is promised (SPEC K-7): an answer marked `recovering` is followed by another one to
//! the same request, once the meeting stands.
//!
//! An answer is read beside the events, in a task of its own, and may be older than an event that was told meanwhile.
//! So every read remembers when it began, and whether its meeting was told to stand since.

use remeet_protocol::MeetingId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Updates that a connection is promised at a time (SPEC K-7): more requests are answered without one.
const PROMISES: usize = 4_096;
/// Meetings told to stand that are remembered while reads are under way. Beyond, every read under way that finds a
/// meeting in recovery is made again: that costs reads, and no promise.
const STOOD_MAX: usize = 4_096;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Promises {
    /// Counts events that meetings stand, and losses of events.
    now: u64,
    /// Reads under way.
    reads: usize,
    /// When meetings were told to stand, while reads are under way.
    stood: BTreeMap<MeetingId, u64>,
    /// When events were lost: any meeting may have been told to stand.
    lost: u64,
    /// Requests that wait for their meeting, and how many they are.
    promised: BTreeMap<MeetingId, BTreeSet<u64>>,
    count: usize,
    /// Those whose meeting stands: to be read.
    owed: VecDeque<(MeetingId, u64)>,
}

/// When a read began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Began(u64);

impl Promises {
    /// A read begins. From now on [`stands`](Self::stands) and [`lost`](Self::lost) are told.
    pub(super) fn begin(&mut self) -> Began {
        self.reads += 1;
        Began(self.now)
    }

    /// A read is over, and nothing is promised: it has found the meeting standing, or none, or has failed.
    pub(super) fn answered(&mut self) {
        self.reads = self.reads.saturating_sub(1);
        if self.reads == 0 {
            self.stood.clear();
        }
    }

    /// A read has found the meeting in recovery, and its answer said so. Whether an update follows: a first answer beyond
    /// the bound goes without, an `update` was promised already.
    pub(super) fn recovering(&mut self, began: Began, meeting: MeetingId, request: u64, update: bool) -> bool {
        let stood = self.stood.get(&meeting).copied().unwrap_or_default().max(self.lost);
        self.answered();
        if stood > began.0 {
            // It was told to stand while it was read: the update is read at once.
            self.owed.push_back((meeting, request));
            return true;
        }
        if !update && self.count + self.owed.len() >= PROMISES {
            return false;
        }
        if self.promised.entry(meeting).or_default().insert(request) {
            self.count += 1;
        }
        true
    }

    /// An event told that the meeting stands, or has ended.
    pub(super) fn stands(&mut self, meeting: MeetingId) {
        self.now += 1;
        if self.reads > 0 {
            if self.stood.len() >= STOOD_MAX {
                self.stood.clear();
                self.lost = self.now;
            }
            self.stood.insert(meeting, self.now);
        }
        let requests = self.promised.remove(&meeting).unwrap_or_default();
        self.count -= requests.len();
        self.owed.extend(requests.into_iter().map(|request| (meeting, request)));
    }

    /// Events were lost, and with them perhaps what was waited for: everything promised is read again.
    pub(super) fn lost(&mut self) {
        self.now += 1;
        self.lost = self.now;
        self.count = 0;
        for (meeting, requests) in std::mem::take(&mut self.promised) {
            self.owed.extend(requests.into_iter().map(|request| (meeting, request)));
        }
    }

    /// The next update to read, taken.
    pub(super) fn next(&mut self) -> Option<(MeetingId, u64)> {
        self.owed.pop_front()
    }

    /// Whether nobody waits for an event.
    pub(super) fn is_idle(&self) -> bool {
        self.count == 0 && self.owed.is_empty() && self.reads == 0
    }
}
