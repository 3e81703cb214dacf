//! The table of legs. Its revision rises when a leg starts, ends or gets another name, and when a
//! tombstone is forgotten (SPEC Q-7).

use super::leg::{Leg, LegHead};
use crate::guard::{Guard, holds};
use remeet_protocol::message::{EndCause, InventoryEntry, LegState};
use remeet_protocol::{Handle, LegId};
use std::collections::{BTreeMap, HashMap};

/// The most legs and tombstones of a server: bounds the memory of table, inventories and snapshots.
pub const LEGS_MAX: usize = 262_144;

/// All legs and tombstones.
#[derive(Debug, Clone)]
pub struct Table {
    /// Rises as SPEC Q-7 says.
    pub revision: u64,
    next_handle: u64,
    removals_max: usize,
    legs: BTreeMap<Handle, Leg>,
    // Looked up only, never iterated: its order would differ between runs.
    by_id: HashMap<LegId, Handle>,
}

impl Table {
    /// An empty table whose legs keep `removals_max` removals each.
    #[must_use]
    pub fn new(removals_max: usize) -> Self {
        Self { revision: 0, next_handle: 1, removals_max, legs: BTreeMap::new(), by_id: HashMap::new() }
    }

    /// With the counters of a snapshot.
    #[must_use]
    pub fn restored(removals_max: usize, revision: u64, next_handle: u64) -> Self {
        Self { revision, next_handle, ..Self::new(removals_max) }
    }

    /// The handle that the next leg gets.
    #[must_use]
    pub fn next_handle(&self) -> Handle {
        Handle(self.next_handle)
    }

    /// Whether the table takes no more legs.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.legs.len() >= LEGS_MAX
    }

    /// A leg appears.
    pub fn appear(&mut self, head: LegHead) {
        self.put(Leg::new(head, self.removals_max));
    }

    /// Puts back a leg of a snapshot.
    pub fn restore(&mut self, head: LegHead) {
        self.next_handle = self.next_handle.max(head.handle.0 + 1);
        self.by_id.insert(head.id, head.handle);
        self.legs.insert(head.handle, Leg::new(head, self.removals_max));
    }

    /// A whole leg appears.
    pub fn put(&mut self, leg: Leg) {
        self.revision += 1;
        self.next_handle = self.next_handle.max(leg.head.handle.0 + 1);
        self.by_id.insert(leg.head.id, leg.head.handle);
        self.legs.insert(leg.head.handle, leg);
    }

    /// A leg ends: it becomes a tombstone.
    pub fn end(&mut self, handle: Handle, cause: EndCause) {
        if let Some(leg) = self.legs.get_mut(&handle)
            && leg.is_live()
        {
            leg.end(cause);
            self.revision += 1;
        }
    }

    /// A tombstone disappears. A live leg stays.
    pub fn purge(&mut self, handle: Handle) {
        if self.legs.get(&handle).is_none_or(Leg::is_live) {
            return;
        }
        if let Some(leg) = self.legs.remove(&handle) {
            self.by_id.remove(&leg.head.id);
            self.revision += 1;
        }
    }

    /// An adopted leg gets another name: to who looks for the old one it disappeared.
    pub fn rename(&mut self, handle: Handle, id: LegId) {
        if let Some(leg) = self.legs.get_mut(&handle)
            && leg.head.id != id
        {
            self.by_id.remove(&leg.head.id);
            leg.head.id = id;
            self.by_id.insert(id, handle);
            self.revision += 1;
        }
    }

    /// A leg or tombstone by the server's name of it.
    #[must_use]
    pub fn leg(&self, handle: Handle) -> Option<&Leg> {
        self.legs.get(&handle)
    }

    /// The same, to change it.
    pub fn leg_mut(&mut self, handle: Handle) -> Option<&mut Leg> {
        self.legs.get_mut(&handle)
    }

    /// The handle of a leg or tombstone.
    #[must_use]
    pub fn handle(&self, id: &LegId) -> Option<Handle> {
        self.by_id.get(id).copied()
    }

    /// Everything, in order of handle.
    pub fn legs(&self) -> impl Iterator<Item = &Leg> {
        self.legs.values()
    }

    /// The same, to change it.
    pub fn legs_mut(&mut self) -> impl Iterator<Item = &mut Leg> {
        self.legs.values_mut()
    }

    /// The first live leg with a handle from `handle` on, or else the first of all.
    #[must_use]
    pub fn live_from(&self, handle: Handle) -> Option<Handle> {
        let live = |leg: &&Leg| leg.is_live();
        self.legs
            .range(handle..)
            .map(|(_, leg)| leg)
            .find(live)
            .or_else(|| self.legs.values().find(live))
            .map(|leg| leg.head.handle)
    }

    /// Every leg and tombstone as an inventory shows it, in order of handle.
    #[must_use]
    pub fn inventory(&self) -> Vec<InventoryEntry> {
        let entry = |leg: &Leg| InventoryEntry {
            handle: leg.head.handle,
            leg: leg.head.id,
            state: if leg.is_live() { LegState::Live } else { LegState::Ended },
            cause: leg.head.ended,
            mark: leg.head.mark,
            terminals: leg.terminals,
            token: leg.head.token,
        };
        self.legs.values().filter(|leg| leg.is_live() || holds(Guard::Tombstones)).map(entry).collect()
    }
}
