//! What a right answer to an inventory's queries is (SPEC ): pages of one cut, ascending by
//! handle, closed by a complete mark whose total fits.
//!
//! Parts of two answers are never put together (SPEC M-5): a page that came in part is asked again whole,
//! under a fresh id, by its cut's number, in fewer packets (which a link that loses packets needs).

use super::pages::{Added, Pages};
use super::question::Step;
use super::{Inventory, Settings};
use crate::guard::{Guard, holds};
use remeet_protocol::message::{InventoryEnd, InventoryEntry, InventoryPage, Message, Query};
use remeet_protocol::packet::Header;
use remeet_protocol::{BootId, Handle};

/// The fewest packets asked for: below, the ends outweigh the content.
const PACKETS_MIN: u16 = 4;

/// An inventory that is being read.
#[derive(Debug)]
pub(super) struct InventoryReading {
    packets_max: u16,
    /// The cut asked for; 0 as long as none is known.
    cut: u64,
    /// Cut of the packets in `pages`.
    held_cut: u64,
    after: u64,
    table: Option<(BootId, u64, u64)>,
    entries: Vec<InventoryEntry>,
    pages: Pages,
    pages_read: u32,
    restarts: u32,
}

impl InventoryReading {
    pub(super) fn new(packets_max: u16) -> Self {
        Self {
            packets_max,
            cut: 0,
            held_cut: 0,
            after: 0,
            table: None,
            entries: Vec::new(),
            pages: Pages::default(),
            pages_read: 0,
            restarts: 0,
        }
    }

    pub(super) fn query(&self) -> Query {
        Query { cut: self.cut, after: self.after, packets_max: self.packets_max }
    }

    pub(super) fn has_part(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Before a repeat: what came of the older answer is dropped.
    pub(super) fn again(&mut self) {
        if self.has_part() {
            self.cut = self.held_cut;
            self.pages.clear();
            self.packets_max = (self.packets_max / 2).max(PACKETS_MIN);
        }
    }

    /// The server no longer keeps the cut: begins anew. False if that has happened too often.
    pub(super) fn restart(&mut self, settings: &Settings) -> bool {
        if self.restarts >= settings.inventory_restarts_max {
            return false;
        }
        *self = Self { restarts: self.restarts + 1, ..Self::new(self.packets_max) };
        true
    }

    pub(super) fn answer(&mut self, header: &Header, message: Message, settings: &Settings) -> Result<Inventory, Step> {
        use remeet_protocol::Flags;
        let (cut, end) = match &message {
            Message::InventoryPage(page) => (page.cut, false),
            Message::InventoryEnd(end) => (end.cut, true),
            other => return Err(Step::Broken(format!("{} as the answer to Query", other.name()))),
        };
        if cut == 0 {
            return Err(Step::Broken("an inventory of cut 0, which stands for none".into()));
        }
        if header.flags.has(Flags::LAST) != end {
            return Err(Step::Broken("LAST belongs on the inventory's end, and only there".into()));
        }
        if self.cut != 0 && cut != self.cut {
            return Err(Step::Broken(format!("a packet of cut {cut} as the answer to a query of cut {}", self.cut)));
        }
        if self.has_part() && cut != self.held_cut {
            // A network that doubled the query: it was answered twice, each time from a new cut.
            return Err(Step::Afresh);
        }
        self.held_cut = cut;
        match self.pages.add(header, message, u32::from(self.packets_max)) {
            Added::Whole => self.page(settings),
            Added::Holes if !holds(Guard::WholeInventory) => self.page(settings),
            Added::Part => Err(Step::Part),
            Added::Holes => Err(Step::Holes),
            Added::Repeat => Err(Step::Repeat),
            Added::Changed => Err(Step::Afresh),
            Added::Broken(reason) => Err(Step::Broken(reason)),
        }
    }

    fn page(&mut self, settings: &Settings) -> Result<Inventory, Step> {
        let mut packets = self.pages.take();
        let broken = |reason: String| Err(Step::Broken(reason));
        let Some(Message::InventoryEnd(end)) = packets.pop() else {
            return broken("an inventory's answer without its end".into());
        };
        let before = self.entries.len();
        for packet in packets {
            let Message::InventoryPage(InventoryPage { entries, .. }) = packet else {
                return broken("two ends in one answer of an inventory".into());
            };
            for entry in entries {
                let Handle(handle) = entry.handle;
                if handle <= self.after {
                    return broken(format!("handle {handle} after {}: entries ascend", self.after));
                }
                self.after = handle;
                self.entries.push(entry);
            }
        }
        self.check(&end, self.entries.len() - before, settings).map_err(Step::Broken)?;
        self.cut = end.cut;
        if !end.complete {
            return Err(Step::Next);
        }
        Ok(Inventory { boot: end.boot, table_revision: end.table_revision, entries: std::mem::take(&mut self.entries) })
    }

    fn check(&mut self, end: &InventoryEnd, page_entries: usize, settings: &Settings) -> Result<(), String> {
        let held = self.entries.len() as u64;
        let cap = settings.inventory_entries_max as u64;
        self.pages_read += 1;
        if held > cap || end.total > cap {
            return Err(format!("an inventory of {} entries, at most {cap} are taken", end.total.max(held)));
        }
        let counts = holds(Guard::WholeInventory);
        if counts && u64::from(end.page_entries) != page_entries as u64 {
            return Err(format!("the end counts {} entries in its page, {page_entries} came", end.page_entries));
        }
        if counts && (held > end.total || (end.complete && held != end.total)) {
            return Err(format!("the cut counts {} entries in all, {held} came", end.total));
        }
        let table = (end.boot, end.table_revision, end.total);
        if *self.table.get_or_insert(table) != table {
            return Err("pages of one cut name different boot ids, table revisions or totals".into());
        }
        if end.complete {
            return Ok(());
        }
        if page_entries == 0 || end.after != self.after {
            return Err(format!("a page of {page_entries} entries leads on to {}: it does not advance", end.after));
        }
        if self.pages_read >= settings.pages_max {
            return Err(format!("more than {} pages", settings.pages_max));
        }
        Ok(())
    }
}
