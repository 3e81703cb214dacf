//! How a server comes back: a snapshot of everything, and the journal since.

use super::events::Queued;
use super::journal::{Entry, ReadError, TableHead, append, read};
use super::table::Table;
use super::{Core, EventQueue, Settings};
use bytes::BytesMut;
use remeet_protocol::message::{EndCause, Event};
use remeet_protocol::record::{Change, RecordState};
use remeet_protocol::{BootId, ServerId};

/// Why a server did not come back from its state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The state does not begin as a snapshot does.
    #[error("this is no state of a simulated server (its first entry is damaged or something else): name another file")]
    NoSnapshot,
    /// The state is another server's.
    #[error("the state belongs to server {found}, not to {expected}: name that server's file")]
    OtherServer {
        /// Whose it is.
        found: ServerId,
        /// Who reads it.
        expected: ServerId,
    },
    /// An entry is damaged or another version's.
    #[error(transparent)]
    Entry(#[from] ReadError),
}

impl Core {
    /// Everything that survives a restart, as entries.
    #[must_use]
    pub fn snapshot(&self) -> BytesMut {
        let mut out = BytesMut::new();
        append(
            &Entry::Table(TableHead {
                server: self.settings.server,
                boot: self.boot,
                revision: self.table.revision,
                next_handle: self.table.next_handle(),
                next_event: self.events.next_number(),
                restarts: self.restarts,
            }),
            &mut out,
        );
        for leg in self.table.legs() {
            append(&Entry::Leg(leg.head.clone()), &mut out);
            for change in leg.removals() {
                append(&Entry::Record(leg.head.handle, change), &mut out);
            }
            for held in leg.records() {
                let change = Change { revision: held.revision, state: RecordState::Present(held.record.clone()) };
                append(&Entry::Record(leg.head.handle, change), &mut out);
            }
        }
        for item in self.events.items() {
            append(&Entry::Queued(item.clone()), &mut out);
        }
        if let Some(token) = self.fence {
            append(&Entry::Attached(token), &mut out);
        }
        for request in self.window.ids() {
            append(&Entry::Seen(request), &mut out);
        }
        out
    }

    /// A server from its snapshot and journal: same boot id, same table, same fence, no connections. What
    /// stands in an entry that was cut in the writing was never answered and is left out.
    ///
    /// # Errors
    /// The state is no snapshot, damaged, another server's, or another version's.
    pub fn restore(settings: Settings, seed: u64, state: &[u8]) -> Result<Self, RestoreError> {
        let mut core = Self::new(settings, BootId::default(), seed);
        core.journal.mute(true);
        let mut head = None;
        read(state, |entry| match (entry, head) {
            (Entry::Table(found), None) => {
                core.boot = found.boot;
                core.restarts = found.restarts.saturating_add(1);
                core.cuts.number_from(core.restarts);
                core.table = Table::restored(core.settings.removals, found.revision, found.next_handle.0);
                core.events = EventQueue::new(found.next_event, core.settings.event_queue);
                head = Some(found);
            }
            (entry, Some(_)) => core.replay(entry),
            (_, None) => {}
        })?;
        let Some(TableHead { server, .. }) = head else { return Err(RestoreError::NoSnapshot) };
        if server != core.settings.server {
            return Err(RestoreError::OtherServer { found: server, expected: core.settings.server });
        }
        core.journal.mute(!core.settings.journal);
        Ok(core)
    }

    /// The same server after a restart that lost its tables: a new boot id, no legs, no events. What has
    /// attached is still known: the fence is kept apart from the tables (rule 2).
    #[must_use]
    pub fn lost_tables(&self, boot: BootId, seed: u64) -> Self {
        let mut core = Self::new(self.settings.clone(), boot, seed);
        core.fence = self.fence;
        core
    }

    /// Goes on counting and misbehaving where the life before the restart stopped.
    pub fn inherit(&mut self, before: &Self) {
        self.stats = before.stats;
        self.stats.restarts += 1;
        self.busy_ms = before.busy_ms;
        self.misbehaviour = before.misbehaviour;
    }

    fn replay(&mut self, entry: Entry) {
        match entry {
            Entry::Table(_) => {}
            Entry::Leg(head) => self.table.restore(head),
            Entry::Record(handle, change) => {
                if let Some(leg) = self.table.leg_mut(handle) {
                    leg.restore(&change);
                }
            }
            Entry::Queued(item) => self.restore_event(item),
            Entry::Seen(request) => {
                self.window.note(request);
            }
            Entry::Attached(token) => {
                if self.fence != Some(token) {
                    self.fence = Some(token);
                    self.window = Default::default();
                }
            }
            Entry::Appeared(head) => self.table.appear(head),
            Entry::Changed(event) => self.replay_event(event),
            Entry::Taken(token, handles) => handles.into_iter().for_each(|handle| self.give(handle, token)),
            Entry::Adopted(adoption) => self.carry_out_adoption(adoption),
            Entry::Done(answer) => self.keep_answer(answer),
            Entry::Acknowledged(number) => self.forget_events(number),
            Entry::RemovalsDropped => self.table.legs_mut().for_each(super::leg::Leg::drop_removals),
            Entry::Overflowed(kept) => {
                self.events.overflow(usize::try_from(kept).unwrap_or(usize::MAX));
            }
        }
    }

    /// A snapshot's events describe changes that its records have already.
    fn restore_event(&mut self, item: Queued) {
        let next = self.events.next_number();
        self.events.restore(item);
        debug_assert_eq!(self.events.next_number(), next, "the snapshot's head names the next number");
    }

    fn replay_event(&mut self, event: Event) {
        if let Some(leg) = self.table.leg_mut(event.handle) {
            for change in &event.changes {
                leg.apply(change);
            }
            leg.head.last_event = event.number;
        }
        if event.ended != EndCause::None {
            self.table.end(event.handle, event.ended);
        }
        self.events.push(event);
    }
}
