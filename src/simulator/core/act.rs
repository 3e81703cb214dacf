//! What happens to a server without a packet: it ends a leg by itself, carries somebody else's leg, is
//! told to be busy or to misbehave.

use super::journal::Entry;
use super::leg::{Leg, LegHead};
use super::{Core, Misbehaviour};
use rand::Rng;
use remeet_protocol::message::{AddTerminal, EndCause};
use remeet_protocol::record::LegRow;
use remeet_protocol::wire::Text;
use remeet_protocol::{Handle, LegId, MeetingId, Secret, Token};

/// Why an act was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// No such leg lives here.
    #[error("no live leg {0} on this server")]
    NoLeg(LegId),
    /// A leg of this name is here already.
    #[error("leg {0} is on this server already")]
    Exists(LegId),
    /// The table is full.
    #[error("the server carries no more legs")]
    Full,
    /// What is kept in a file is changed step by step only.
    #[error("a server with a state file cannot be filled: start it without --state")]
    Journal,
    /// The leg takes no more terminals.
    #[error("a leg has at most {} terminals", super::roster::TERMINALS_MAX)]
    Terminals,
}

impl Core {
    /// The server ends a leg by itself.
    ///
    /// # Errors
    /// No such leg lives here.
    pub fn end_leg(&mut self, id: LegId) -> Result<Handle, ActError> {
        let handle = self.table.handle(&id).filter(|handle| self.table.leg(*handle).is_some_and(Leg::is_live));
        let handle = handle.ok_or(ActError::NoLeg(id))?;
        self.publish(handle, EndCause::ByServer);
        Ok(handle)
    }

    /// A leg that no scheduler of ours started, under a secret that nobody knows. Its meeting is `meeting`,
    /// or an unknown one.
    ///
    /// # Errors
    /// The name is taken, or a bound is reached.
    pub fn create_foreign(
        &mut self,
        now_ms: u64,
        meeting: Option<MeetingId>,
        terminals: u16,
    ) -> Result<(LegId, Handle), ActError> {
        if self.table.is_full() {
            return Err(ActError::Full);
        }
        if terminals > super::roster::TERMINALS_MAX {
            return Err(ActError::Terminals);
        }
        let id = match meeting {
            Some(meeting) => LegId { meeting, leg: 0 },
            None => self.unknown_leg(),
        };
        if self.table.handle(&id).is_some() {
            return Err(ActError::Exists(id));
        }
        let handle = self.table.next_handle();
        let number = Text::cut(&format!("7{:07}", self.rng.random_range(0..10_000_000)));
        let row = LegRow {
            title: Text::cut(&format!("Foreign meeting {number}")),
            number,
            creator: Text::cut("0"),
            creator_name: Text::cut("somebody else"),
            chair: Text::default(),
            first_speaker: Text::default(),
            second_speaker: Text::default(),
            started_at_ms: now_ms,
        };
        let head = LegHead::new(id, handle, Secret::new(self.rng.random()), 1, Token::default());
        self.appear(head, row);
        for place in 1..=terminals {
            let op = AddTerminal {
                number: Text::cut(&format!("70{place:04}")),
                home_domain: self.settings.domain,
                name: Text::cut(&format!("Foreign terminal {place}")),
            };
            if let Some(leg) = self.table.leg_mut(handle) {
                // The number is new and the bound was checked.
                let _ = leg.add_terminal(now_ms, &op);
            }
        }
        self.publish(handle, EndCause::None);
        Ok((id, handle))
    }

    fn unknown_leg(&mut self) -> LegId {
        // The seeded source repeats itself after a restart: skip names that are taken.
        loop {
            let id = LegId { meeting: MeetingId::from_bytes(self.rng.random()), leg: 0 };
            if self.table.handle(&id).is_none() {
                return id;
            }
        }
    }

    /// Answers takeovers and commands with `busy`, and this hint, until told otherwise.
    pub fn set_busy(&mut self, retry_after_ms: Option<u32>) {
        self.busy_ms = retry_after_ms;
    }

    /// Breaks the protocol from now on, or stops it.
    pub fn misbehave(&mut self, misbehaviour: Misbehaviour) {
        self.misbehaviour = misbehaviour;
    }

    /// Forgets the removals of every leg: pulls since an older mark are answered in full.
    pub fn drop_removals(&mut self) {
        self.journal.note(&Entry::RemovalsDropped);
        self.table.legs_mut().for_each(Leg::drop_removals);
    }

    /// Loses the events that are not sent yet. Answers how many.
    pub fn overflow_events(&mut self) -> u64 {
        let kept = self.events.sent();
        self.journal.note(&Entry::Overflowed(kept as u64));
        let lost = self.events.overflow(kept);
        self.stats.events_lost += lost;
        self.pump();
        lost
    }
}
