//! Handshake, and how answers are sent.

use super::{Asked, ConnectionId, Core, Misbehaviour, Output};
use remeet_protocol::message::{Failure, Hello, Message, Role, Welcome};
use remeet_protocol::packet::{Flags, Header, Packet, VERSION};
use remeet_protocol::{Address, ErrorCode};

impl Core {
    pub(super) fn hello(&mut self, asked: Asked, hello: &Hello) {
        if hello.version_min > VERSION || hello.version_max < VERSION {
            let detail = format!("this server speaks {}.{}", VERSION >> 4, VERSION & 15);
            return self.refuse(asked, ErrorCode::WRONG_VERSION, &detail);
        }
        if hello.role != Role::Scheduler || hello.id != self.settings.scheduler_domain.0 {
            let detail = format!("only the scheduler of domain {} is welcome", self.settings.scheduler_domain);
            return self.refuse(asked, ErrorCode::UNKNOWN_IDENTITY, &detail);
        }
        if let Some(connection) = self.connections.get_mut(&asked.connection) {
            connection.welcomed = true;
            connection.peer = asked.from;
        }
        let welcome = Welcome {
            role: Role::Server,
            version: VERSION,
            domain: self.settings.domain,
            id: self.settings.server.0,
            name: self.settings.name.clone(),
            boot: self.boot,
            table_revision: self.table.revision,
            keep_alive_ms: self.settings.keep_alive_ms,
        };
        self.answer(asked, vec![welcome.into()]);
    }

    /// Refuses a handshake and closes (SPEC H-1 to H-3).
    pub(super) fn refuse(&mut self, asked: Asked, code: ErrorCode, detail: &str) {
        self.stats.handshakes_refused += 1;
        self.fail(asked, Failure::new(code, detail));
        self.out.push(Output::Close(asked.connection));
    }

    pub(super) fn fail(&mut self, asked: Asked, failure: Failure) {
        self.answer(asked, vec![failure.into()]);
    }

    /// Answers with one or more packets, the last of them marked.
    pub(super) fn answer(&mut self, asked: Asked, messages: Vec<Message>) {
        if self.misbehaviour == Misbehaviour::UnknownTypes {
            self.strange(asked);
        }
        let last = messages.len() - 1;
        for (index, message) in messages.into_iter().enumerate() {
            let packet = self.answer_packet(asked, index, index == last, message);
            self.push(asked.connection, packet);
        }
    }

    pub(super) fn answer_packet(&self, asked: Asked, index: usize, last: bool, message: Message) -> Packet {
        let header = Header {
            flags: if last { Flags::FINAL_ANSWER } else { Flags::ANSWER },
            session: asked.header.session,
            request: asked.header.request,
            // At most 257 packets answer a request.
            index: u32::try_from(index).unwrap_or(u32::MAX),
            hops: 0,
        };
        // The request's addresses, swapped; nobody's address stands for ours (SPEC A-3).
        let ours = Address::server(self.settings.server);
        let source = if asked.to == Address::default() { ours } else { asked.to };
        Packet { destination: asked.from, source, header, message }
    }

    pub(super) fn send(&mut self, connection: ConnectionId, to: Address, header: Header, message: Message) {
        let packet = Packet { destination: to, source: Address::server(self.settings.server), header, message };
        self.push(connection, packet);
    }

    pub(super) fn push(&mut self, connection: ConnectionId, packet: Packet) {
        self.stats.packets_out += 1;
        self.out.push(Output::Send(connection, packet));
    }

    /// Two packets that a receiver must survive: a type that nobody knows, and a body too short for its type.
    pub(super) fn strange(&mut self, asked: Asked) {
        self.stats.breaches += 1;
        let body = bytes::Bytes::from_static(b"?");
        for kind in [0x7fff, 0x0141] {
            let message = Message::Unknown { kind, body: body.clone() };
            self.send(asked.connection, asked.from, Header::default(), message);
        }
    }
}
