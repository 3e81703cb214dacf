//! Which packet belongs to what.

use super::conversation::{Control, Phase, Session};
use super::counters::Misbehaviour;
use super::events::Offered;
use super::question::{Question, Step, boot_of, is_stale};
use crate::model::Moment;
use remeet_protocol::message::{Failure, KeepAliveAnswer, Message};
use remeet_protocol::packet::Header;
use remeet_protocol::{Address, ErrorCode, Flags, Packet, Rejected};

impl Session {
    /// A packet after the Welcome.
    pub(super) fn route(&mut self, packet: Packet) {
        if packet.source != Address::server(self.identity.server) {
            let reason =
                format!("a packet from address {} on the link of server {}", packet.source, self.identity.server);
            self.misbehaved(Misbehaviour::Identity, reason);
            return;
        }
        if packet.header.flags.has(Flags::ANSWER) {
            self.answer(packet.header, packet.message);
        } else {
            self.notice(packet.header, packet.message);
        }
    }

    fn answer(&mut self, header: Header, message: Message) {
        if let Message::Unknown { .. } = &message {
            self.skipped(&message);
            return;
        }
        if let Message::KeepAliveAnswer(_) = message {
            return;
        }
        let boot = self.boot();
        let Some((ticket, question)) = self.flight.question(header.request) else {
            self.counters.stray_answers += 1;
            return;
        };
        if let Message::Failure(failure) = message {
            self.refused(header.request, failure);
            return;
        }
        if let (Some(now), Some(before)) = (boot_of(&message), boot)
            && now != before
        {
            let reason = format!("the server's table began a new life ({now}) within one connection (of {before})");
            self.misbehaved(Misbehaviour::Boot, reason.clone());
            self.close(reason);
            return;
        }
        let attached = match (&*question, &message) {
            (Question::Attach(token), Message::Attached(attached)) => Some((attached.session, *token)),
            _ => None,
        };
        let stale = is_stale(&message);
        let step = question.answer(ticket, &header, message, &self.settings, &mut self.heard);
        if let (Step::Done, Some((session, token))) = (&step, attached) {
            self.control = Control::Attached { session, token };
            self.events.attached(self.now);
        }
        self.step(header.request, step);
        if stale {
            self.fenced(Failure::new(ErrorCode::STALE_TOKEN, "a leg's answer said so"));
        }
    }

    fn notice(&mut self, header: Header, message: Message) {
        if let Message::Unknown { .. } = &message {
            self.skipped(&message);
        }
        match message {
            Message::KeepAlive(_) => {
                let epoch = self.attached().map_or(0, |(_, token)| token.epoch.0);
                self.respond(&header, KeepAliveAnswer { table_revision: epoch }.into());
            }
            Message::Goodbye(goodbye) => {
                self.redial_after_ms = Some(goodbye.retry_after_ms);
                self.close(format!("the server said goodbye: {}: {}", goodbye.code, goodbye.detail));
            }
            Message::Event(_) | Message::EventGap(_) if !self.is_of_session(&header) => {
                self.counters.foreign_packets += 1;
            }
            Message::Event(event) => {
                let offered = self.events.event(self.now, event, &self.settings, &mut self.heard);
                self.offered(offered);
            }
            Message::EventGap(gap) => {
                let offered = self.events.gap(self.now, gap, &self.settings, &mut self.heard);
                self.offered(offered);
            }
            Message::Failure(failure) if failure.code == ErrorCode::STALE_TOKEN && self.is_of_session(&header) => {
                self.fenced(failure);
            }
            Message::Failure(_) => self.counters.stray_answers += 1,
            Message::Unknown { kind, .. } => {
                let failure = Failure::new(ErrorCode::UNSUPPORTED, &format!("message type {kind:#06x}"));
                self.respond(&header, failure.into());
            }
            other => {
                let reason = format!("{} is not a server's to send", other.name());
                let failure = Failure::new(ErrorCode::UNSUPPORTED, &reason);
                self.respond(&header, failure.into());
                self.misbehaved(Misbehaviour::Request, reason);
            }
        }
    }

    /// A type of a later version (SPEC M-1). A server that speaks one may send many: only the first is logged.
    pub(super) fn skipped(&mut self, message: &Message) {
        self.counters.unknown_types += 1;
        if let (1, Message::Unknown { kind, .. }) = (self.counters.unknown_types, message) {
            tracing::warn!(
                server = self.identity.server.0,
                "a packet of the unknown type {kind:#06x} is skipped; more are only counted"
            );
        }
    }

    fn is_of_session(&self, header: &Header) -> bool {
        self.attached().is_some_and(|(session, _)| session == header.session)
    }

    pub(super) fn offered(&mut self, offered: Offered) {
        match offered {
            Offered::Taken => {}
            Offered::Repeat => self.counters.repeated_events += 1,
            Offered::Breach(reason) => self.misbehaved(Misbehaviour::Events, reason),
        }
    }

    /// A packet whose body could not be read. An answer counts as lost (SPEC M-2): it is awaited, or asked
    /// for again, and too many of them close the link.
    pub(super) fn rejected(&mut self, rejected: &Rejected) {
        let reason = rejected.to_string();
        let header = rejected.head.header;
        if !header.flags.has(Flags::ANSWER) {
            self.respond(&header, Failure::new(ErrorCode::MALFORMED, &reason).into());
        }
        self.misbehaved(Misbehaviour::Malformed, reason);
    }

    /// Answers a request of the server, unless too much waits to leave already.
    fn respond(&mut self, to: &Header, message: Message) {
        if to.request != 0 && matches!(self.phase, Phase::Up(_)) && self.out.len() < self.settings.answers_max {
            self.emit(Header { flags: Flags::FINAL_ANSWER, request: to.request, ..Header::default() }, message);
        }
    }

    /// The acknowledgement that is due, and missing events that are given up.
    pub(super) fn tend_events(&mut self, now: Moment) {
        let offered = self.events.wake(now, &self.settings, &mut self.heard);
        self.offered(offered);
        if let Control::Attached { .. } = self.control
            && let Some(number) = self.events.take_ack(now)
        {
            self.emit(Header::default(), remeet_protocol::message::EventAck { number }.into());
        }
    }
}
