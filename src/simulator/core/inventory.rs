//! Inventory (SPEC ): membership and marks are cut at one table revision, sent page by page and
//! closed by the complete mark.

use super::{Asked, ConnectionId, Core, Misbehaviour};
use remeet_protocol::message::{Failure, InventoryEnd, InventoryEntry, InventoryPage, Message, Query};
use remeet_protocol::wire::pack;
use remeet_protocol::{ErrorCode, Handle};
use std::collections::VecDeque;

/// Cuts that are kept however long nobody asked for them: one in use, one begun anew, for two schedulers.
const CUTS_MIN: usize = 4;
/// Cuts kept at most: bounds memory (each is a table's 90 bytes a leg) whatever the peers ask for.
const CUTS_MAX: usize = 32;
/// A cut that was asked for within this time is kept while there is room (SPEC Q-5).
const KEPT_MS: u64 = 60_000;
/// The most packets that one request may ask for, the end packet not counted (SPEC Q-2).
pub(super) const PACKETS_MAX: usize = 256;
/// Entries that fit one page: the list's room without its count, by the entry's 82 bytes and their length.
const ENTRIES_A_PACKET: usize = (InventoryPage::ENTRIES_ROOM - 2) / 84;

#[derive(Debug)]
struct Cut {
    number: u64,
    connection: ConnectionId,
    request: u64,
    asked_ms: u64,
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
    /// Cuts of a later life of the process must not get the numbers of an earlier one (SPEC Q-1).
    pub(super) fn number_from(&mut self, restarts: u32) {
        self.last = u64::from(restarts) << 32;
    }

    fn add(&mut self, now_ms: u64, asked: Asked, table_revision: u64, entries: Vec<InventoryEntry>) -> u64 {
        let old = |cut: &Cut| now_ms.saturating_sub(cut.asked_ms) > KEPT_MS;
        while self.kept.len() >= CUTS_MAX || (self.kept.len() >= CUTS_MIN && self.kept.front().is_some_and(old)) {
            self.kept.pop_front();
        }
        self.last += 1;
        let (connection, request) = (asked.connection, asked.header.request);
        let (number, asked_ms) = (self.last, now_ms);
        self.kept.push_back(Cut { number, connection, request, asked_ms, table_revision, entries });
        number
    }
}

impl Core {
    pub(super) fn query(&mut self, now_ms: u64, asked: Asked, query: &Query) {
        if !self.admit_reading(asked) {
            return;
        }
        self.stats.queries += 1;
        let number = if query.cut == 0 { self.cut(now_ms, asked) } else { query.cut };
        let Some(cut) = self.cuts.kept.iter_mut().find(|cut| cut.number == number) else {
            return self.fail(asked, Failure::new(ErrorCode::CUT_GONE, ErrorCode::CUT_GONE.sentence()));
        };
        cut.asked_ms = now_ms;
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
        self.stats.breaches +=
            u64::from(matches!(self.misbehaviour, Misbehaviour::LyingCount | Misbehaviour::EndlessPages));
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
        let mut messages: Vec<Message> = pack(page, InventoryPage::ENTRIES_ROOM)
            .into_iter()
            .map(|entries| InventoryPage { cut: number, entries }.into())
            .collect();
        messages.push(end.into());
        self.answer(asked, messages);
    }

    /// Begins a cut; the same request again gets the cut that it got, so that packets of both answers fit.
    fn cut(&mut self, now_ms: u64, asked: Asked) -> u64 {
        let same = |cut: &&Cut| cut.connection == asked.connection && cut.request == asked.header.request;
        if let Some(cut) = self.cuts.kept.iter().find(same) {
            return cut.number;
        }
        self.cuts.add(now_ms, asked, self.table.revision, self.table.inventory())
    }
}
