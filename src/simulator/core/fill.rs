//! Legs in bulk, as if a scheduler had started them long ago: what a bench begins with.
//!
//! The same [`Fill`] gives the same legs everywhere, so that whoever fills a store beside a server needs no dump of it.
//! A leg has its row, its terminals, and of the first of them a window and an entry; each in one revision.

use super::leg::{Leg, LegHead};
use super::roster::TERMINALS_MAX;
use super::{ActError, Core};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet_protocol::record::{
    Business, BusinessState, Decode, DisplayMode, EntryRow, LeaveReason, LegRow, MediaCodec, Number, Record,
    Resolution, TerminalRow, WindowRow,
};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{BootId, DomainId, Handle, LegId, MeetingId, Secret, Token};
use serde::{Deserialize, Serialize};

/// Any moment: the meetings began before it.
const BEGAN_MS: u64 = 1_750_000_000_000;

/// Which legs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fill {
    /// Drives ids and secrets.
    pub seed: u64,
    /// The first leg's place in the whole network; ids and numbers are made of places.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Terminals of each.
    pub terminals: u16,
    /// The term that is said to have started them.
    pub token: Token,
}

/// Where a server has put them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// The life of its table.
    pub boot: BootId,
    /// The table's revision after it.
    pub table_revision: u64,
    /// The first leg's handle; the others' follow.
    pub first_handle: Handle,
}

impl Fill {
    /// The number of a terminal, from 0, of the leg at a place.
    #[must_use]
    pub fn number(place: u32, terminal: u16) -> Number {
        Text::cut(&format!("5{place:06}{terminal:03}"))
    }

    /// The leg at a place, with everything but the server's memory of events.
    #[must_use]
    pub fn leg(&self, domain: DomainId, place: u32, handle: Handle, removals_max: usize) -> Leg {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_add(u64::from(place) << 20));
        let id = uuid::Builder::from_unix_timestamp_millis(BEGAN_MS + u64::from(place), &rng.random());
        let id = LegId { meeting: MeetingId(id.into_uuid()), leg: 0 };
        let head = LegHead::new(id, handle, Secret::new(rng.random()), 1, self.token);
        let mut leg = Leg::new(head, removals_max);
        let numbers: Vec<Number> = (0..self.terminals).map(|terminal| Self::number(place, terminal)).collect();
        leg.set(Record::Leg(leg_row(place, &numbers)));
        for (terminal, number) in numbers.iter().enumerate() {
            leg.set(Record::Terminal(terminal_row(domain, number, terminal)));
        }
        if let Some(first) = numbers.first() {
            leg.set(Record::Window(WindowRow {
                terminal: first.clone(),
                window: 0,
                source: numbers.last().cloned().unwrap_or_default(),
                channel: 0,
                video: true,
                audio: true,
                codec: MediaCodec::H264,
                errors: 0,
            }));
            leg.set(Record::Entry(EntryRow {
                terminal: first.clone(),
                key: Text::cut("model"),
                value: Blob::new(&b"simulated"[..]).unwrap_or_default(),
            }));
        }
        leg.take_pending();
        leg
    }
}

fn leg_row(place: u32, numbers: &[Number]) -> LegRow {
    let nth = |nth: usize| numbers.get(nth).cloned().unwrap_or_default();
    LegRow {
        number: Text::cut(&format!("7{place:06}")),
        title: Text::cut(&format!("Besprechung {place} – 会议")),
        creator: nth(0),
        creator_name: Text::cut("Ada Lovelace"),
        chair: nth(0),
        first_speaker: nth(1),
        second_speaker: Number::default(),
        started_at_ms: BEGAN_MS,
    }
}

fn terminal_row(domain: DomainId, number: &Number, terminal: usize) -> TerminalRow {
    TerminalRow {
        number: number.clone(),
        home_domain: domain,
        name: Text::cut(&format!("Sitzungssaal {terminal}")),
        online: true,
        in_meeting: true,
        joined_at_ms: BEGAN_MS,
        left_at_ms: 0,
        left_because: LeaveReason::None,
        business: Some(Business {
            state: BusinessState::InMeeting,
            since_ms: BEGAN_MS,
            sends_main: true,
            sends_auxiliary: false,
            resolution: Resolution::Full,
        }),
        decode: Some(Decode { display_mode: DisplayMode::Single, output: Text::cut("1"), codec: MediaCodec::H264 }),
        extra_version: Some(1),
    }
}

impl Core {
    /// Carries these legs from now on, without telling anybody.
    ///
    /// # Errors
    /// A bound is reached, or the server keeps its state in a file, whose journal knows single steps only.
    pub fn fill(&mut self, fill: &Fill) -> Result<Filled, ActError> {
        if self.settings.journal {
            return Err(ActError::Journal);
        }
        if fill.terminals > TERMINALS_MAX {
            return Err(ActError::Terminals);
        }
        let first_handle = self.table.next_handle();
        for (handle, place) in (first_handle.0..).zip(fill.first..fill.first.saturating_add(fill.count)) {
            if self.table.is_full() {
                return Err(ActError::Full);
            }
            self.table.put(fill.leg(self.settings.domain, place, Handle(handle), self.settings.removals));
        }
        if self.fence.is_none_or(|fence| fence.admits(&fill.token)) {
            self.fence = Some(fill.token);
        }
        Ok(Filled { boot: self.boot, table_revision: self.table.revision, first_handle })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::simulator::core::Settings;
    use remeet_protocol::{Epoch, Holder, ServerId};

    fn settings() -> Settings {
        Settings {
            server: ServerId(1),
            domain: DomainId(1),
            scheduler_domain: DomainId(1),
            name: Text::cut("one"),
            permit_adopt: false,
            event_queue: 10,
            removals: 10,
            keep_alive_ms: 1_000,
            journal: false,
        }
    }

    fn fill() -> Fill {
        let token = Token { epoch: Epoch(3), holder: Holder::from_bytes([3; 16]) };
        Fill { seed: 9, first: 500, count: 4, terminals: 3, token }
    }

    #[test]
    fn a_filled_server_carries_just_the_legs_that_the_fill_tells_of() {
        let mut core = Core::new(settings(), BootId::from_bytes([1; 16]), 1);
        let (fill, filled) = (fill(), core.fill(&fill()).unwrap());
        assert_eq!((filled.boot, filled.table_revision, core.highest_token()), (core.boot(), 4, Some(fill.token)));
        assert_eq!(core.events_waiting(), 0, "nobody is told");
        for (place, leg) in (500..).zip(core.table().legs()) {
            let told = fill.leg(DomainId(1), place, Handle(filled.first_handle.0 + u64::from(place) - 500), 10);
            assert_eq!((leg.head.id, leg.head.handle, leg.head.mark), (told.head.id, told.head.handle, told.head.mark));
            assert_eq!(leg.head.secret.expose(), told.head.secret.expose());
            assert_eq!(leg.recomputed(), leg.head.mark, "the mark is its content's");
            assert_eq!((leg.terminals, leg.records().count()), (3, 1 + 3 + 2));
        }
        assert_eq!(core.table().legs().count(), 4);
    }

    #[test]
    fn a_fill_beyond_a_bound_is_refused() {
        let mut core = Core::new(settings(), BootId::from_bytes([1; 16]), 1);
        assert_eq!(core.fill(&Fill { terminals: TERMINALS_MAX + 1, ..fill() }), Err(ActError::Terminals));
        let mut kept = Core::new(Settings { journal: true, ..settings() }, BootId::from_bytes([1; 16]), 1);
        assert_eq!(kept.fill(&fill()), Err(ActError::Journal));
    }
}
