//! The plan: a pure function of (inventory, stored legs) that puts every leg into exactly one bucket
//! (design §2 step 4). It acts on nothing and can be printed.

use crate::guard::{Guard, holds};
use crate::model::{StoredLeg, StoredState};
use remeet_protocol::message::{EndCause, InventoryEntry, LegState};
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, Handle, LegId, ServerId};
use std::collections::{BTreeMap, BTreeSet};

/// What the plan looks at.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The server that answered.
    pub server: ServerId,
    /// The life of its table.
    pub boot: BootId,
    /// The table revision of the inventory's cut, which stands at or after the attach.
    pub table_revision: u64,
    /// Every leg of the cut.
    pub inventory: &'a [InventoryEntry],
    /// Every leg stored under the server that is not ended, and every stored leg that the inventory
    /// names: from a look-up made after the inventory's complete mark.
    pub stored: &'a BTreeMap<LegId, &'a StoredLeg>,
}

/// What is to be done about a leg.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bucket {
    /// Live and stored as live (or starting): take it over. Open intents follow.
    TakeOver,
    /// Live, and stored as ending or ended by an explicit end: take it over and end it.
    FinishEnd,
    /// Stored as starting; after the fence neither live nor a tombstone: start it again.
    FinishStart,
    /// Stored as adopting, live under its old name: adopt it again with the same secret.
    FinishAdoption {
        /// The name that the server still has for it.
        old: LegId,
    },
    /// Live without a stored leg: shown, never touched.
    Orphan,
    /// The server says that it ended: close it.
    Ended(EndCause),
    /// Stored as live and gone (rule 8): close it with the cause, raise an alarm.
    Vanished(EndCause),
    /// Two claim one leg, or one closed by absence is live: alarm, nothing is killed.
    Conflict(&'static str),
    /// Nothing can be concluded: left alone until the next round.
    Unclear(&'static str),
}

/// The reason of a conflict within one server: the leg's other entry has a bucket of its own.
pub const TWO_HANDLES: &str = "the server reports the leg under two handles";

/// One leg's place in the plan.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Planned {
    /// The leg as we name it (an adopting leg's new name).
    pub leg: LegId,
    /// The server's name of it; none if it is not in the inventory.
    pub handle: Option<Handle>,
    /// The inventory reports it live.
    pub live: bool,
    /// Terminals on its roster.
    pub terminals: u16,
    /// What is to be done.
    pub bucket: Bucket,
}

/// Makes the plan. Legs that need nothing (created; ended with a tombstone) are left out.
#[must_use]
pub fn plan(seen: &Seen<'_>) -> Vec<Planned> {
    let adopting = adopting(seen);
    let adopted = adopted_since(seen);
    // One entry a leg: with two handles for one leg the stored handle is the one, else the first.
    let mut chosen: BTreeMap<LegId, Handle> = BTreeMap::new();
    for entry in seen.inventory.iter().filter(|entry| entry.state == LegState::Live) {
        let stored = seen.stored.get(&entry.leg);
        let is_stored = stored.is_some_and(|row| row.boot == Some(seen.boot) && row.handle == Some(entry.handle));
        chosen
            .entry(entry.leg)
            .and_modify(|handle| {
                if is_stored {
                    *handle = entry.handle
                }
            })
            .or_insert(entry.handle);
    }
    let mut planned: Vec<Planned> = Vec::with_capacity(seen.inventory.len());
    let mut placed = BTreeSet::new();
    for entry in seen.inventory {
        let live = entry.state == LegState::Live;
        let mut leg = entry.leg;
        let bucket = if let Some(row) = adopting.get(&entry.handle) {
            leg = row.leg;
            match live {
                true if entry.leg == row.leg => Some(Bucket::TakeOver),
                true => Some(Bucket::FinishAdoption { old: entry.leg }),
                // Its new name is live elsewhere in the table: that entry has its bucket.
                false if chosen.contains_key(&leg) => None,
                false => Some(Bucket::Ended(entry.cause)),
            }
        } else if let Some(row) = adopted.get(&entry.handle).filter(|row| live && row.title == adopted_title(entry.leg))
        {
            leg = row.leg;
            Some(Bucket::Unclear("adopted after the inventory was made"))
        } else if !live {
            tombstone(seen, entry, &chosen)
        } else if chosen.get(&entry.leg) != Some(&entry.handle) {
            Some(Bucket::Conflict(TWO_HANDLES))
        } else {
            Some(reported_live(seen, seen.stored.get(&entry.leg).copied()))
        };
        // A leg has one bucket; whatever else claims its name is a live entry to be told of, or nothing.
        let bucket = match bucket {
            Some(bucket) if bucket == Bucket::Conflict(TWO_HANDLES) || placed.insert(leg) => Some(bucket),
            Some(_) if live => Some(Bucket::Conflict(TWO_HANDLES)),
            _ => None,
        };
        if let Some(bucket) = bucket {
            planned.push(Planned { leg, handle: Some(entry.handle), live, terminals: entry.terminals, bucket });
        }
    }
    let named: BTreeSet<LegId> = seen.inventory.iter().map(|entry| entry.leg).collect();
    for row in seen.stored.values().filter(|row| row.server == seen.server && !placed.contains(&row.leg)) {
        // Its name is in the inventory, but under a handle that is not its own: that is no absence.
        let stands = !matches!(row.state, StoredState::Created | StoredState::Ended);
        let bucket = match named.contains(&row.leg) {
            true => stands.then_some(Bucket::Unclear("the server has its name under another handle only")),
            false => absent(seen, row),
        };
        if let Some(bucket) = bucket {
            planned.push(Planned { leg: row.leg, handle: None, live: false, terminals: 0, bucket });
        }
    }
    planned
}

/// Adopting legs by handle: the server may still have them under their old name. A handle that one of our
/// legs has already is not another's to adopt.
fn adopting<'a>(seen: &Seen<'a>) -> BTreeMap<Handle, &'a StoredLeg> {
    let here = |row: &&&StoredLeg| row.server == seen.server && row.boot == Some(seen.boot);
    let taken: BTreeMap<Handle, LegId> = seen.inventory.iter().map(|entry| (entry.handle, entry.leg)).collect();
    let stands = |row: &StoredLeg| !matches!(row.state, StoredState::Created | StoredState::Ended);
    seen.stored
        .values()
        .filter(here)
        .filter(|row| row.state == StoredState::Adopting)
        .filter_map(|row| row.handle.map(|handle| (handle, *row)))
        .filter(|(handle, row)| {
            let holder = taken.get(handle).and_then(|leg| seen.stored.get(leg)).filter(here);
            holder.is_none_or(|holder| holder.leg == row.leg || holder.handle != Some(*handle) || !stands(holder))
        })
        .collect()
}

/// The title of a leg that was an orphan of this name: a command that is repeated over a crash finds it by that.
pub(super) fn adopted_title(orphan: LegId) -> Text<256> {
    Text::cut(&format!("adopted from {orphan}"))
}

/// Legs by handle that were accepted after the inventory was made: an adopted one stands in it under its old name, and
/// is no orphan.
fn adopted_since<'a>(seen: &Seen<'a>) -> BTreeMap<Handle, &'a StoredLeg> {
    seen.stored
        .values()
        .filter(|row| row.server == seen.server && row.boot == Some(seen.boot))
        .filter(|row| row.table_revision > seen.table_revision)
        .filter(|row| matches!(row.state, StoredState::InMeeting | StoredState::Ending | StoredState::Ended))
        .filter_map(|row| row.handle.map(|handle| (handle, *row)))
        .collect()
}

fn reported_live(seen: &Seen<'_>, stored: Option<&StoredLeg>) -> Bucket {
    let Some(row) = stored else {
        return Bucket::Orphan;
    };
    if row.server != seen.server {
        return Bucket::Conflict("another server is stored as the leg's");
    }
    match row.state {
        StoredState::Starting | StoredState::InMeeting => Bucket::TakeOver,
        StoredState::Ending => Bucket::FinishEnd,
        StoredState::Ended => match row.cause {
            EndCause::Lost | EndCause::Vanished => Bucket::Conflict("the leg was closed by absence, yet it is live"),
            _ => Bucket::FinishEnd,
        },
        // Persist-then-send makes this impossible for our own commands.
        StoredState::Created => Bucket::Conflict("the leg is live, but it was never started"),
        StoredState::Adopting => Bucket::Conflict("the leg is live under another handle than the adopted one"),
    }
}

fn tombstone(seen: &Seen<'_>, entry: &InventoryEntry, live: &BTreeMap<LegId, Handle>) -> Option<Bucket> {
    let row = seen.stored.get(&entry.leg)?;
    // A reused handle or a second life of the leg on this server: only the leg's own tombstone ends it.
    let own = row.handle.is_none_or(|handle| handle == entry.handle) || row.boot != Some(seen.boot);
    let ends = row.state != StoredState::Ended
        && row.state != StoredState::Created
        && row.server == seen.server
        && own
        && !live.contains_key(&entry.leg);
    ends.then_some(Bucket::Ended(entry.cause))
}

/// Rule 8: what absence from a complete inventory means.
fn absent(seen: &Seen<'_>, row: &StoredLeg) -> Option<Bucket> {
    let gone = |cause| {
        Some(match (row.boot, row.state) {
            (_, StoredState::Ending) => Bucket::Vanished(EndCause::Commanded),
            _ => Bucket::Vanished(cause),
        })
    };
    match row.state {
        StoredState::Created | StoredState::Ended => None,
        // The attach has fenced every older start; ours is not answered, so it is sent again.
        StoredState::Starting if holds(Guard::UnansweredStart) => Some(Bucket::FinishStart),
        StoredState::Starting => gone(EndCause::Vanished),
        StoredState::Ending if row.boot.is_none() => Some(Bucket::FinishStart),
        StoredState::InMeeting | StoredState::Ending | StoredState::Adopting => match row.boot {
            Some(boot) if boot != seen.boot => gone(EndCause::Lost),
            Some(_) if seen.table_revision > row.table_revision || !holds(Guard::TableRevision) => {
                gone(EndCause::Vanished)
            }
            Some(_) => Some(Bucket::Unclear("absent at a table revision not above the one that accepted it")),
            None => Some(Bucket::Unclear("absent, and its server's boot id was never stored")),
        },
    }
}

/// The order of takeovers: operator-marked first, then the larger ones; handles break ties.
pub fn takeover_order(
    first: bool,
    terminals: u16,
    handle: Handle,
) -> (std::cmp::Reverse<bool>, std::cmp::Reverse<u16>, Handle) {
    (std::cmp::Reverse(first), std::cmp::Reverse(terminals), handle)
}
