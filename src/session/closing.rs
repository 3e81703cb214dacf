//! Ends: of a request, of control, of the connection. Whatever was open is answered.

use super::conversation::{Control, Phase, Session};
use super::counters::Misbehaviour;
use super::question::Question;
use super::{Heard, Request, RequestError, Ticket};
use remeet_protocol::message::{Failure, Message};

impl Session {
    pub(super) fn fail_request(&mut self, ticket: Ticket, request: Request, error: &RequestError) {
        for question in Question::from_request(request, &self.settings) {
            self.fail(ticket, question, error.clone());
        }
    }

    pub(super) fn fail_all_control(&mut self, error: &RequestError) {
        self.fail_all(Question::needs_token, error);
        for (ticket, request) in self.queue.drain_held(request_needs_token) {
            self.fail_request(ticket, request, error);
        }
    }

    /// A newer token has attached to the server: everything that needs control is refused.
    pub(super) fn fenced(&mut self, failure: Failure) {
        let error = RequestError::Refused(failure.clone());
        let attached = matches!(self.control, Control::Attached { .. });
        self.control = Control::Fenced(failure);
        self.fail_all_control(&error);
        self.out.retain(|packet| !needs_control(&packet.message));
        if attached {
            self.heard.push_back(Heard::Fenced);
        }
    }

    /// Gives the link up: everything open is answered, then the owner hears of it.
    pub(super) fn close(&mut self, reason: String) {
        if matches!(self.phase, Phase::Down | Phase::Closing(_)) {
            return;
        }
        self.fail_all(|_| true, &RequestError::LinkLost);
        for (ticket, request) in self.queue.drain_held(|_| true) {
            self.fail_request(ticket, request, &RequestError::LinkLost);
        }
        self.out.clear();
        self.events.link_down();
        self.control = Control::None;
        self.asked = None;
        self.heard.push_back(Heard::Down { reason: reason.clone() });
        self.phase = Phase::Closing(reason);
    }

    /// Counts and reports a breach; too many close the link.
    pub(super) fn misbehaved(&mut self, kind: Misbehaviour, reason: String) {
        *self.counters.misbehaviours.entry(kind).or_default() += 1;
        self.heard.push_back(Heard::Misbehaved { reason: format!("{}: {reason}", kind.name()) });
        if self.now.since(self.breaches_since) >= self.settings.misbehaviours_window {
            (self.breaches, self.breaches_since) = (0, self.now);
        }
        self.breaches += 1;
        if self.breaches >= self.settings.misbehaviours_max {
            self.close(format!("{} breaches of the protocol in a short time", self.breaches));
        }
    }
}

pub(super) fn request_needs_token(request: &Request) -> bool {
    !matches!(request, Request::Inventory)
}

pub(super) fn needs_control(message: &Message) -> bool {
    matches!(
        message,
        Message::Attach(_) | Message::Takeover(_) | Message::Pull(_) | Message::Command(_) | Message::Adopt(_)
    )
}
