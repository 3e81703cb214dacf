//! Hello and Welcome: version and identity (SPEC H-1 to H-4, rule 16).

use super::Heard;
use super::conversation::{Link, Phase, Session};
use super::counters::Misbehaviour;
use super::keepalive::Pulse;
use crate::model::Moment;
use remeet_protocol::message::{Hello, Message, Role, Welcome};
use remeet_protocol::packet::{Header, VERSION};
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, DomainId, ErrorCode, Flags, Holder, Packet, ServerId};
use std::time::Duration;

/// Who speaks to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The scheduler's domain: its configured id towards servers.
    pub domain: DomainId,
    /// The scheduler's name, for the server's logs; cut at 64 bytes.
    pub name: String,
    /// This process's life.
    pub holder: Holder,
    /// The server that the configuration names: nobody else is spoken to.
    pub server: ServerId,
}

/// Awaits the Welcome.
#[derive(Debug)]
pub(super) struct Greeting {
    request: u64,
    pub(super) due: Moment,
    pub(super) deadline: Moment,
    pause: Duration,
}

impl Session {
    pub(super) fn greet(&mut self) {
        let request = self.fresh_request();
        let greeting = Greeting {
            request,
            due: self.now,
            deadline: self.now + self.settings.handshake_deadline,
            pause: self.settings.answer_timeout,
        };
        self.phase = Phase::Greeting(greeting);
        self.say_hello();
    }

    /// Says hello, again if need be.
    pub(super) fn say_hello(&mut self) {
        let next = match &self.phase {
            Phase::Greeting(greeting) => self.now + self.jittered(greeting.pause),
            _ => return,
        };
        let Phase::Greeting(greeting) = &mut self.phase else { return };
        greeting.due = next;
        greeting.pause = (greeting.pause * 2).min(self.settings.answer_timeout_max);
        let header = Header { request: greeting.request, ..Header::default() };
        let hello = Hello {
            role: Role::Scheduler,
            id: self.identity.domain.0,
            name: Text::cut(&self.identity.name),
            instance: self.identity.holder,
            version_min: VERSION,
            version_max: VERSION,
        };
        self.emit(header, hello.into());
    }

    /// A packet before the Welcome. On a link that reorders, late packets of an older connection may come
    /// here: whatever does not answer this hello is ignored.
    pub(super) fn greeted(&mut self, packet: Packet) {
        let Phase::Greeting(greeting) = &self.phase else { return };
        if packet.header.request != greeting.request || !packet.header.flags.has(Flags::ANSWER) {
            self.counters.foreign_packets += 1;
            return;
        }
        match packet.message {
            Message::Welcome(welcome) => self.welcomed(packet.source, welcome),
            Message::Failure(failure) => {
                self.close(format!("the server refused the handshake: {}: {}", failure.code, failure.detail));
            }
            message @ Message::Unknown { .. } => self.skipped(&message),
            other => {
                let reason = format!("{} as the answer to Hello", other.name());
                self.misbehaved(Misbehaviour::Answer, reason.clone());
                self.close(reason);
            }
        }
    }

    fn welcomed(&mut self, source: Address, welcome: Welcome) {
        let expected = self.identity.server;
        let claim = if welcome.role != Role::Server {
            Some(format!("claims to be a {:?}, server {expected} is configured here", welcome.role))
        } else if welcome.id != expected.0 {
            Some(format!("claims to be server {} ({}), server {expected} is configured here", welcome.id, welcome.name))
        } else if source != Address::server(expected) {
            Some(format!("claims to be server {expected}, yet speaks from address {source}"))
        } else if self.settings.server_domain.is_some_and(|domain| domain != welcome.domain) {
            Some(format!("claims to be of domain {}, which is not its configured one", welcome.domain))
        } else if welcome.version != VERSION {
            Some(format!("claims to be on version {:#04x}, {VERSION:#04x} alone was offered", welcome.version))
        } else {
            None
        };
        if let Some(claim) = claim {
            let code = if welcome.version == VERSION { ErrorCode::UNKNOWN_IDENTITY } else { ErrorCode::WRONG_VERSION };
            self.misbehaved(Misbehaviour::Identity, claim.clone());
            self.close(claim.clone());
            // What is to be sent before the driver closes the link (SPEC H-4).
            self.say_goodbye(code, &claim);
            return;
        }
        self.counters.connections += 1;
        self.events.begin(welcome.boot);
        self.heard.push_back(Heard::Up { boot: welcome.boot, table_revision: welcome.table_revision });
        let pulse = Pulse::begin(self.now, welcome.keep_alive_ms, &self.settings);
        self.phase = Phase::Up(Box::new(Link { welcome, pulse }));
    }
}
