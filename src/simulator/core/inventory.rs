//! Inventory (SPEC ): membership and marks are cut at one table revision, sent page by page and
//! closed by the complete mark.

use super::{Asked, ConnectionId, Core, Misbehaviour};
use remeet_protocol::message::{Failure, InventoryEnd, InventoryEntry, InventoryPage, Message, Query};
use remeet_protocol::packet::BODY_BYTES_MAX;
use remeet_protocol::wire::pack;
use remeet_protocol::{ErrorCode, Handle};
use std::collections::VecDeque;

/// Cuts kept for a connection: one in use, one begun anew, and as many again for repeats in flight.
const CUTS_A_CONNECTION: usize = 4;
/// Cuts kept for all connections: bounds memory whatever the number of connections.
const CUTS_MAX: usize = 32;
/// The most packets that one request may ask for, the end packet not counted (SPEC Q-3).
pub(super) const PACKETS_MAX: usize = 256;
/// Entries that fit one page: body without cut and count, by the entry's 82 bytes and their length.
const ENTRIES_A_PACKET: usize = (BODY_BYTES_MAX - 8 - 2) / 84;

#[derive(Debug)]
struct Cut {
    number: u64,
    connection: ConnectionId,
    request: u64,
    table_revision: u64,
    entries: Vec<InventoryEntry>,
}

/// The cuts that are still answered from.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    last: u64,
    kept: VecDeque<Cut>,
}

impl Cuts {
    /// Forgets a connection's cuts.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.kept.retain(|cut| cut.connection != connection);
    }

    fn add(&mut self, asked: Asked, table_revision: u64, entries: Vec<InventoryEntry>) -> u64 {
        self.last += 1;
        let of_connection = |cut: &Cut| cut.connection == asked.connection;
        if self.kept.iter().filter(|cut| of_connection(cut)).count() >= CUTS_A_CONNECTION
            && let Some(oldest) = self.kept.iter().position(of_connection)
        {
            self.kept.remove(oldest);
        }
        if self.kept.len() >= CUTS_MAX {
            self.kept.pop_front();
        }
        let (connection, request) = (asked.connection, asked.header.request);
        self.kept.push_back(Cut { number: self.last, connection, request, table_revision, entries });
        self.last
    }
}

impl Core {
    pub(super) fn query(&mut self, asked: Asked, query: &Query) {
        self.stats.queries += 1;
        let number = if query.cut == 0 { self.cut(asked) } else { query.cut };
        let Some(cut) = self.cuts.kept.iter().find(|cut| cut.number == number && cut.connection == asked.connection)
        else {
            return self.fail(asked, Failure::new(ErrorCode::CUT_GONE, ErrorCode::CUT_GONE.sentence()));
        };
        let from = cut.entries.partition_point(|entry| entry.handle.0 <= query.after);
        let most = usize::from(query.packets_max).clamp(1, PACKETS_MAX) * ENTRIES_A_PACKET;
        let page = &cut.entries[from..cut.entries.len().min(from + most)];
        let mut end = InventoryEnd {
            cut: number,
            table_revision: cut.table_revision,
            boot: self.boot,
            after: page.last().map_or(query.after, |entry| entry.handle.0),
            // At most 256 × 12 entries.
            page_entries: u32::try_from(page.len()).unwrap_or(u32::MAX),
            complete: from + page.len() == cut.entries.len(),
            total: cut.entries.len() as u64,
        };
        let mut page = page.to_vec();
        match self.misbehaviour {
            Misbehaviour::LyingCount => (end.page_entries, end.total) = (end.page_entries + 1, end.total + 1),
            Misbehaviour::EndlessPages => {
                // Pages beyond the last repeat a leg under handles that nobody gave.
                end.complete = false;
                if page.is_empty() {
                    let next = Handle(query.after.saturating_add(1));
                    page.extend(cut.entries.last().map(|entry| InventoryEntry { handle: next, ..entry.clone() }));
                    (end.after, end.page_entries) = (next.0, u32::from(!page.is_empty()));
                }
            }
            _ => {}
        }
        let mut messages: Vec<Message> = pack(page, BODY_BYTES_MAX - 8)
            .into_iter()
            .map(|entries| InventoryPage { cut: number, entries }.into())
            .collect();
        messages.push(end.into());
        self.answer(asked, messages);
    }

    /// Begins a cut; the same request again gets the cut that it got, so that packets of both answers fit.
    fn cut(&mut self, asked: Asked) -> u64 {
        let same = |cut: &&Cut| cut.connection == asked.connection && cut.request == asked.header.request;
        if asked.header.request != 0
            && let Some(cut) = self.cuts.kept.iter().find(same)
        {
            return cut.number;
        }
        self.cuts.add(asked, self.table.revision, self.table.inventory())
    }
}
