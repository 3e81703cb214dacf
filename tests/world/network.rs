//! Links between the scheduler and its servers: delay, order, loss, cuts.

use super::node::Node;
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
    pub(super) fn new(seed: u64, node: usize, server: ServerId) -> Self {
        let dice = Dice::new(seed, 1_000 * (1 + 10 * node as u64) + u64::from(server.0));
        Self { connection: None, last: [Moment(0); 2], cut: false, dice }
    }

    pub(super) fn stands(&self) -> bool {
        self.connection.is_some()
    }
}

impl World {
    pub(super) fn wire(&mut self, node: usize, server: ServerId) -> Option<&mut Wire> {
        self.nodes[node].wires.get_mut(&server)
    }

    /// Whose connection it is, if it stands.
    fn node_with(&self, server: ServerId, connection: ConnectionId) -> Option<usize> {
        let has = |node: &Node| node.wires.get(&server).is_some_and(|wire| wire.connection == Some(connection));
        self.nodes.iter().position(has)
    }

    /// The scheduler dials; refused while the link is cut.
    pub(super) fn dial(&mut self, node: usize, server: ServerId) {
        let now = self.calendar.now();
        let connection = ConnectionId(self.last_connection + 1);
        let Some(wire) = self.wire(node, server) else { return };
        if wire.connection.is_some() {
            return;
        }
        if wire.cut {
            self.session(node, server, |session, now| session.disconnected(now, "nobody answers"));
            return self.redial(node, server, Duration::from_millis(300));
        }
        wire.connection = Some(connection);
        wire.last = [now; 2];
        self.last_connection = connection.0;
        if let Some(simulated) = self.servers.get_mut(&server) {
            simulated.core.connect(connection);
        }
        self.session(node, server, |session, now| session.connected(now));
    }

    pub(super) fn redial(&mut self, node: usize, server: ServerId, pause: Duration) {
        if let Some(life) = self.nodes[node].life() {
            self.calendar.after(pause, Happening::Dial { life, server });
        }
    }

    /// Sends a packet on its way. What a paused process has handed over leaves when it runs again.
    pub(super) fn carry(&mut self, node: usize, server: ServerId, connection: ConnectionId, way: Way, packet: Packet) {
        let options = &self.options;
        let now = self.calendar.now();
        let leaves = if way == Way::ToServer { now.max(self.nodes[node].paused_until) } else { now };
        let Some(wire) = self.nodes[node].wires.get_mut(&server) else { return };
        if wire.cut {
            return;
        }
        let (loses, doubles) = (wire.dice.chance(options.loss), wire.dice.chance(options.doubles));
        let copies = if loses { 0 } else { 1 + u64::from(doubles) };
        for (befalls, kind) in [(loses, "a packet is lost"), (doubles, "a packet comes twice")] {
            if befalls {
                *self.faults.entry(kind).or_default() += 1;
            }
        }
        for _ in 0..copies {
            let mut at = leaves + options.pause(&mut wire.dice, options.delay);
            if !options.disorder {
                let last = &mut wire.last[usize::from(way == Way::ToServer)];
                at = at.max(*last);
                *last = at;
            }
            self.calendar.at(at, Happening::Packet { server, connection, way, packet: packet.clone() });
        }
    }

    /// A server sends on one of its connections.
    pub(super) fn carry_back(&mut self, server: ServerId, connection: ConnectionId, packet: Packet) {
        if let Some(node) = self.node_with(server, connection) {
            self.carry(node, server, connection, Way::ToScheduler, packet);
        }
    }

    pub(super) fn arrive(&mut self, server: ServerId, connection: ConnectionId, way: Way, packet: Packet) {
        match (way, self.node_with(server, connection)) {
            // What is on its way when the sender dies arrives; a cut ends the connection at once.
            (Way::ToServer, _) => self.serve(server, connection, packet),
            (Way::ToScheduler, Some(node)) if self.nodes[node].is_paused(self.calendar.now()) => {
                let again = Happening::Packet { server, connection, way, packet };
                self.calendar.at(self.nodes[node].paused_until, again);
            }
            (Way::ToScheduler, Some(node)) => {
                self.session(node, server, |session, now| session.packet(now, Ok(packet)));
            }
            (Way::ToScheduler, None) => {}
        }
    }

    /// The server's links are cut: what is under way is lost, both ends notice. `heal` lets them come back.
    pub(super) fn cut(&mut self, server: ServerId) {
        (0..self.nodes.len()).for_each(|node| self.cut_at(node, server));
    }

    /// One scheduler's link to a server is cut.
    pub(super) fn cut_at(&mut self, node: usize, server: ServerId) {
        if let Some(wire) = self.wire(node, server) {
            wire.cut = true;
        }
        self.break_link_of(node, server, "the link was cut");
    }

    pub(super) fn is_cut(&self, node: usize, server: ServerId) -> bool {
        self.nodes[node].wires.get(&server).is_some_and(|wire| wire.cut)
    }

    pub(super) fn heal(&mut self, server: ServerId) {
        for node in &mut self.nodes {
            if let Some(wire) = node.wires.get_mut(&server) {
                wire.cut = false;
            }
        }
    }

    /// The server's connections end at once, and the schedulers dial again.
    pub(super) fn break_link(&mut self, server: ServerId, reason: &str) {
        (0..self.nodes.len()).for_each(|node| self.break_link_of(node, server, reason));
    }

    pub(super) fn break_link_of(&mut self, node: usize, server: ServerId, reason: &str) {
        let Some(connection) = self.wire(node, server).and_then(|wire| wire.connection.take()) else { return };
        if let Some(simulated) = self.servers.get_mut(&server) {
            simulated.disconnect(connection);
        }
        let reason = reason.to_owned();
        self.session(node, server, |session, now| session.disconnected(now, &reason));
        let pause = Duration::from_millis(20 + self.dice.below(150));
        self.redial(node, server, pause);
    }

    /// A session closes: what was sent before arrives.
    pub(super) fn close_link(&mut self, node: usize, server: ServerId, redial: Option<Duration>) {
        let now = self.calendar.now();
        let Some(life) = self.nodes[node].life() else { return };
        let Some(wire) = self.wire(node, server) else { return };
        let Some(connection) = wire.connection.take() else { return };
        let at = wire.last[1].max(now);
        self.calendar.at(at, Happening::ServerHangsUp { server, connection });
        let pause = redial.unwrap_or_default().max(Duration::from_millis(50));
        self.calendar.at(now, Happening::LinkEnded { life, server });
        self.redial(node, server, pause);
    }

    /// The server closes a connection.
    pub(super) fn server_closes(&mut self, server: ServerId, connection: ConnectionId) {
        if let Some(node) = self.node_with(server, connection) {
            self.close_link(node, server, None);
        }
    }

    /// The scheduler's process is gone: its servers see the end of what it sent.
    pub(super) fn drop_links(&mut self, node: usize) {
        let now = self.calendar.now();
        for (server, wire) in &mut self.nodes[node].wires {
            if let Some(connection) = wire.connection.take() {
                let at = wire.last[1].max(now);
                self.calendar.at(at, Happening::ServerHangsUp { server: *server, connection });
            }
        }
    }
}
