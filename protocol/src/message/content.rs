//! Pull of a leg's records (SPEC ): what changed since a revision, page by page, up to the
//! revision at the pull's start; or everything, where the removals back to there are no longer kept.

use crate::ids::{Handle, LegId};
use crate::packet::BODY_BYTES_MAX;
use crate::record::{Change, Mark};

wire_struct! {
    /// Asks for one page of a leg's records, in ascending order of their revision.
    pub struct Pull {
        /// The server's name of the leg.
        handle: Handle,
        /// Our name of it.
        leg: LegId,
        /// The mark's revision: everything up to it is stored. 0 asks for everything.
        since: u64,
        /// 0 begins a pull; later pages name the revision that the first page's end answered.
        upto: u64,
        /// Records with a revision above this: `since` (or 0 once the answer says `full`) at first, then
        /// what the last page's end answered.
        after: u64,
        /// Whether an earlier page said that the pull is full.
        full: bool,
        /// The most packets that may answer, 1 to 256 (the end packet not counted).
        packets_max: u16,
    }
}

wire_struct! {
    /// Part of the answer to [`Pull`].
    pub struct PullPage {
        /// Our name of the leg.
        leg: LegId,
        /// Changes in ascending order of revision. A record that changed after the pull's start is left
        /// out: its event carries it.
        changes: Vec<Change>,
    }
}

impl PullPage {
    /// Bytes that its list may fill: the `room` of [`pack`](crate::wire::pack).
    pub const CHANGES_ROOM: usize = BODY_BYTES_MAX - 18;
}

wire_struct! {
    /// Last packet of an answer to [`Pull`].
    pub struct PullEnd {
        /// Our name of the leg.
        leg: LegId,
        /// Everything is sent, `since` did not count: what the receiver holds at or below `upto` and did
        /// not get is gone.
        full: bool,
        /// Content of the leg at the pull's start; its revision is the pull's `upto`.
        upto: Mark,
        /// Where the next page begins.
        after: u64,
        /// Changes in this answer.
        page_changes: u32,
        /// The pull is complete.
        complete: bool,
    }
}
