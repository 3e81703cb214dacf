//! How changes become events, and what is sent when.

use super::journal::Entry;
use super::{Asked, Core};
use remeet_protocol::Handle;
use remeet_protocol::message::{EndCause, Event, Message};
use remeet_protocol::packet::Header;
use remeet_protocol::wire::Wire;

impl Core {
    /// Turns the pending changes of a leg into events, packed so that each fits a packet, and sends what
    /// may be sent. `ended` marks the last of them.
    pub(super) fn publish(&mut self, handle: Handle, ended: EndCause) {
        let Some(leg) = self.table.leg_mut(handle) else { return };
        let id = leg.head.id;
        let mark = leg.head.mark;
        let mut changes = leg.take_pending().into_iter().peekable();
        if ended != EndCause::None {
            self.table.end(handle, ended);
        }
        loop {
            let mut event = Event {
                number: self.events.next_number(),
                leg: id,
                handle,
                previous: mark.revision,
                mark,
                ended: EndCause::None,
                changes: Vec::new(),
            };
            let mut used = 2;
            while let Some((change, after)) = changes.peek() {
                let size = change.encoded_len() + 2;
                if used + size > Event::CHANGES_ROOM && !event.changes.is_empty() {
                    break;
                }
                if event.changes.is_empty() {
                    event.previous = change.revision - 1;
                }
                used += size;
                event.mark = *after;
                event.changes.extend(changes.next().map(|(change, _)| change));
            }
            let last = changes.peek().is_none();
            event.ended = if last { ended } else { EndCause::None };
            if event.changes.is_empty() && event.ended == EndCause::None {
                break;
            }
            if let Some(leg) = self.table.leg_mut(handle) {
                leg.head.last_event = event.number;
            }
            self.journal.note(&Entry::Changed(event.clone()));
            self.stats.events_made += 1;
            self.stats.events_lost += self.events.push(event);
            if last {
                break;
            }
        }
        self.pump();
    }

    /// Sends events to the session while they may be sent, and the answers that waited for them.
    pub(super) fn pump(&mut self) {
        let Some((session, _)) = self.sessions.current() else { return };
        let Some((connection, peer)) = self.sessions.events_to else { return };
        let header = Header { session, ..Header::default() };
        while let Some(message) = self.events.send() {
            self.stats.events_sent += 1;
            self.send(connection, peer, header, message);
        }
        let sent = self.events.sent_upto();
        while self.held.front().is_some_and(|(number, ..)| *number <= sent) {
            if let Some((_, connection, packet)) = self.held.pop_front() {
                self.push(connection, packet);
            }
        }
    }

    /// Sends everything that is not acknowledged again: on a link that loses packets, when no acknowledgement has come for a
    /// while (SPEC E-5).
    pub fn repeat_events(&mut self) {
        if self.sessions.events_to.is_some() {
            self.events.rewind();
            self.pump();
        }
    }

    /// Sends the answers that waited for events on a connection that gets none any more.
    pub(super) fn release(&mut self) {
        for (_, connection, packet) in std::mem::take(&mut self.held) {
            self.push(connection, packet);
        }
    }

    /// Answers once the events up to `number` are sent: a command's events come before its answer (SPEC C-5).
    pub(super) fn answer_after(&mut self, asked: Asked, number: u64, message: Message) {
        let packet = self.answer_packet(asked, 0, true, message);
        let elsewhere = self.sessions.events_to.is_none_or(|(connection, _)| connection != asked.connection);
        if elsewhere || number <= self.events.sent_upto() {
            self.push(asked.connection, packet);
        } else {
            self.held.push_back((number, asked.connection, packet));
        }
    }
}
