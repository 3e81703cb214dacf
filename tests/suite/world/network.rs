//! Links between the scheduler and its servers: delay, order, loss, cuts.

use super::options::Dice;
use super::{Happening, World};
use remeet::model::Moment;
use remeet::simulator::core::ConnectionId;
use remeet_protocol::{Packet, ServerId};
use std::time::Duration;

/// The way of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToServer,
    ToScheduler,
}

/// One server's link.
pub(super) struct Wire {
    /// The connection, if one stands.
    pub(super) connection: Option<ConnectionId>,
    /// When the last packet in each direction arrives: a stream keeps their order.
    last: [Moment; 2],
    /// Nobody gets through.
    pub(super) cut: bool,
    dice: Dice,
}

impl Wire {
    pub(super) fn new(seed: u64, server: ServerId) -> Self {
        let dice = Dice::new(seed, 1_000 + u64::from(server.0));
        Self { connection: None, last: [Moment(0); 2], cut: false, dice }
    }
}

impl World {
    /// The scheduler dials; refused while the link is cut.
    pub(super) fn dial(&mut self, server: ServerId) {
        let now = self.calendar.now();
        let Some(wire) = self.wires.get_mut(&server) else { return };
        if wire.connection.is_some() {
            return;
        }
        if wire.cut {
            self.session(server, |session, now| session.disconnected(now, "nobody answers"));
            return self.redial(server, Duration::from_millis(300));
        }
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        wire.connection = Some(connection);
        wire.last = [now; 2];
        if let Some(simulated) = self.servers.get_mut(&server) {
            simulated.core.connect(connection);
        }
        self.session(server, |session, now| session.connected(now));
    }

    pub(super) fn redial(&mut self, server: ServerId, pause: Duration) {
        let life = self.life;
        self.calendar.after(pause, Happening::Dial { life, server });
    }

    /// Sends a packet on its way.
    pub(super) fn carry(&mut self, server: ServerId, connection: ConnectionId, way: Way, packet: Packet) {
        let options = &self.options;
        let now = self.calendar.now();
        let Some(wire) = self.wires.get_mut(&server) else { return };
        if wire.cut {
            return;
        }
        let copies = if wire.dice.chance(options.loss) { 0 } else { 1 + u64::from(wire.dice.chance(options.doubles)) };
        for _ in 0..copies {
            let mut at = now + wire.dice.pause(options.delay);
            if !options.disorder {
                let last = &mut wire.last[usize::from(way == Way::ToServer)];
                at = at.max(*last);
                *last = at;
            }
            self.calendar.at(at, Happening::Packet { server, connection, way, packet: packet.clone() });
        }
    }

    pub(super) fn arrive(&mut self, server: ServerId, connection: ConnectionId, way: Way, packet: Packet) {
        let stands = self.wires.get(&server).is_some_and(|wire| wire.connection == Some(connection));
        match way {
            // What is on its way when the sender dies arrives; a cut ends the connection at once.
            Way::ToServer => self.serve(server, connection, packet),
            Way::ToScheduler if stands => self.session(server, |session, now| session.packet(now, Ok(packet))),
            Way::ToScheduler => {}
        }
    }

    /// The link is cut: what is under way is lost, both ends notice. `heal` lets it come back.
    pub(super) fn cut(&mut self, server: ServerId) {
        let Some(wire) = self.wires.get_mut(&server) else { return };
        wire.cut = true;
        self.break_link(server, "the link was cut");
    }

    pub(super) fn heal(&mut self, server: ServerId) {
        if let Some(wire) = self.wires.get_mut(&server) {
            wire.cut = false;
        }
    }

    /// A connection ends at once, and the scheduler dials again.
    pub(super) fn break_link(&mut self, server: ServerId, reason: &str) {
        let Some(connection) = self.wires.get_mut(&server).and_then(|wire| wire.connection.take()) else { return };
        if let Some(simulated) = self.servers.get_mut(&server) {
            simulated.disconnect(connection);
        }
        let reason = reason.to_owned();
        self.session(server, |session, now| session.disconnected(now, &reason));
        let pause = Duration::from_millis(20 + self.dice.below(150));
        self.redial(server, pause);
    }

    /// The session or the server closes: what was sent before arrives.
    pub(super) fn close_link(&mut self, server: ServerId, redial: Option<Duration>) {
        let life = self.life;
        let now = self.calendar.now();
        let Some(wire) = self.wires.get_mut(&server) else { return };
        let Some(connection) = wire.connection.take() else { return };
        let at = wire.last[1].max(now);
        self.calendar.at(at, Happening::ServerHangsUp { server, connection });
        let pause = redial.unwrap_or_default().max(Duration::from_millis(50));
        self.calendar.at(now, Happening::LinkEnded { life, server });
        self.redial(server, pause);
    }

    /// The scheduler's process is gone: its servers see the end of what it sent.
    pub(super) fn drop_links(&mut self) {
        let now = self.calendar.now();
        for (server, wire) in &mut self.wires {
            if let Some(connection) = wire.connection.take() {
                let at = wire.last[1].max(now);
                self.calendar.at(at, Happening::ServerHangsUp { server: *server, connection });
            }
        }
    }
}
