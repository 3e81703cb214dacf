//! Query of live meetings (SPEC ): membership is cut at one table revision, asked page by page,
//! and closed by a complete mark. Without that mark nothing may be concluded from what is absent.

use crate::ids::{BootId, Handle, LegId, Token};
use crate::packet::BODY_BYTES_MAX;
use crate::record::Mark;

wire_struct! {
    /// Asks for one page of the inventory. Needs no control of the server.
    pub struct Query {
        /// 0 begins a new cut; later pages name the cut that the first page answered.
        cut: u64,
        /// Entries with a handle above this; 0 for the first page.
        after: u64,
        /// The most packets that may answer, 1 to 256 (the end packet not counted).
        packets_max: u16,
    }
}

wire_enum! {
    /// A leg's state as its server sees it.
    pub enum LegState {
        /// The leg runs.
        Live = 1,
        /// The leg has ended; the entry is its tombstone.
        Ended = 2,
    }
}

wire_enum! {
    /// Why a leg ended.
    pub enum EndCause {
        /// It has not ended.
        None = 0,
        /// A command of a scheduler.
        Commanded = 1,
        /// The server ended it by itself: empty, time over.
        ByServer = 2,
        /// The server lost it (restart with a new boot id). Concluded by the scheduler, never on the wire.
        Lost = 3,
        /// Absent from a complete inventory. Concluded by the scheduler, never on the wire.
        Vanished = 4,
        /// An operator ended it.
        Operator = 5,
    }
}

wire_struct! {
    /// One leg in the inventory.
    pub struct InventoryEntry {
        /// The server's name of the leg.
        handle: Handle,
        /// Our name of the leg.
        leg: LegId,
        /// Live or a tombstone.
        state: LegState,
        /// Why it ended, if it did.
        cause: EndCause,
        /// Revision, count and digest of its content.
        mark: Mark,
        /// Terminals on the roster.
        terminals: u16,
        /// The token that commands the leg: who started it or took it over last.
        token: Token,
    }
}

wire_struct! {
    /// Part of the answer to [`Query`]: entries in ascending order of handle.
    pub struct InventoryPage {
        /// The cut that the page belongs to.
        cut: u64,
        /// Entries.
        entries: Vec<InventoryEntry>,
    }
}

impl InventoryPage {
    /// Bytes that its list may fill: the `room` of [`pack`](crate::wire::pack).
    pub const ENTRIES_ROOM: usize = BODY_BYTES_MAX - 8;
}

wire_struct! {
    /// Last packet of an answer to [`Query`].
    pub struct InventoryEnd {
        /// The cut.
        cut: u64,
        /// The table revision of the cut.
        table_revision: u64,
        /// The life of the table.
        boot: BootId,
        /// Where the next page begins: the last handle of this one.
        after: u64,
        /// Entries in this answer.
        page_entries: u32,
        /// The inventory-complete mark: this was the last page.
        complete: bool,
        /// Entries of the whole cut.
        total: u64,
    }
}
