//! Links between the scheduler and its servers: delay, order, loss, cuts.

use super::node::Node;
use super::options::Dice;
use super::{Happening, Site, World};
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

impl Way {
    fn index(self) -> usize {
        usize::from(self == Way::ToServer)
    }
}

/// One server's link.
pub(super) struct Wire {
    /// The connection, if one stands.
    pub(super) connection: Option<ConnectionId>,
    /// When the last packet of each way arrives: a stream keeps their order, and its end comes behind them.
    last: [Moment; 2],
    /// Nobody gets through.
    pub(super) cut: bool,
    /// Nothing gets through on this way until then, and nobody is told: a stream's packets come later, others never.
    silent_until: [Moment; 2],
    /// The connection has ended; the scheduler hears of it behind what is under way to it.
    ended: bool,
    dice: Dice,
}

impl Wire {
    pub(super) fn new(seed: u64, node: usize, server: ServerId) -> Self {
        let dice = Dice::new(seed, 1_000 * (1 + 10 * node as u64) + u64::from(server.0));
        let never = [Moment(0); 2];
        Self { connection: None, last: never, cut: false, silent_until: never, ended: false, dice }
    }

    /// What is sent now on this way ends here.
    fn is_silent(&self, way: Way, now: Moment) -> bool {
        now < self.silent_until[way.index()]
    }

    /// The connection is over for the scheduler.
    fn take(&mut self) -> Option<ConnectionId> {
        self.ended = false;
        self.connection.take()
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
        if wire.cut || wire.is_silent(Way::ToServer, now) || wire.is_silent(Way::ToScheduler, now) {
            self.bites(Site::Wire(node, server));
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
        if wire.cut || wire.ended {
            return;
        }
        let (loses, doubles) = (wire.dice.chance(options.loss), wire.dice.chance(options.doubles));
        let silent = wire.is_silent(way, leaves);
        let copies = if loses || silent && !options.session.stream { 0 } else { 1 + u64::from(doubles) };
        for (befalls, kind) in [(loses, "a packet is lost"), (doubles, "a packet comes twice")] {
            if befalls {
                *self.faults.entry(kind).or_default() += 1;
            }
        }
        for _ in 0..copies {
            let mut at = wire.silent_until[way.index()].max(leaves) + options.pause(&mut wire.dice, options.delay);
            let last = &mut wire.last[way.index()];
            if !options.disorder {
                at = at.max(*last);
            }
            *last = at.max(*last);
            self.calendar.at(at, Happening::Packet { server, connection, way, packet: packet.clone() });
        }
        if silent {
            self.bites(Site::Wire(node, server));
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
            // What is on its way when the sender dies arrives, before the connection's end.
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

    /// The server's links are cut, and both ends notice. `heal` lets them come back.
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
        let now = self.calendar.now();
        let cut = |wire: &Wire| wire.cut || wire.silent_until.iter().any(|until| now < *until);
        self.nodes[node].wires.get(&server).is_some_and(cut)
    }

    pub(super) fn heal(&mut self, server: ServerId) {
        for node in &mut self.nodes {
            if let Some(wire) = node.wires.get_mut(&server) {
                (wire.cut, wire.silent_until) = (false, [Moment(0); 2]);
            }
        }
    }

    /// The server's connections end at once, and the schedulers dial again.
    pub(super) fn break_link(&mut self, server: ServerId, reason: &str) {
        (0..self.nodes.len()).for_each(|node| self.break_link_of(node, server, reason));
    }

    /// One scheduler's connection to a server breaks: each end notices at once, or behind what is under way to it.
    pub(super) fn break_link_of(&mut self, node: usize, server: ServerId, reason: &str) {
        let now = self.calendar.now();
        let Some(life) = self.nodes[node].life() else { return };
        let Some(wire) = self.wire(node, server).filter(|wire| !wire.ended) else { return };
        let Some(connection) = wire.connection else { return };
        wire.ended = true;
        let [to_scheduler, to_server] = wire.last.map(|last| last.max(now));
        let [scheduler_at_once, server_at_once] = [(); 2].map(|()| wire.dice.chance(0.5));
        if server_at_once {
            self.hang_up(server, connection);
        } else {
            self.calendar.at(to_server, Happening::ServerHangsUp { server, connection });
        }
        let reason = reason.to_owned();
        if scheduler_at_once {
            self.link_breaks(life, server, connection, &reason);
        } else {
            self.calendar.at(to_scheduler, Happening::LinkBreaks { life, server, connection, reason });
        }
    }

    /// The scheduler hears that a connection has broken.
    pub(super) fn link_breaks(&mut self, life: u64, server: ServerId, connection: ConnectionId, reason: &str) {
        let Some(node) = self.node_of(life) else { return };
        let Some(wire) = self.wire(node, server).filter(|wire| wire.connection == Some(connection)) else { return };
        wire.take();
        self.session(node, server, |session, now| session.disconnected(now, reason));
        let pause = Duration::from_millis(20 + self.dice.below(150));
        self.redial(node, server, pause);
    }

    /// A connection is over for the server.
    pub(super) fn hang_up(&mut self, server: ServerId, connection: ConnectionId) {
        if let Some(simulated) = self.servers.get_mut(&server) {
            simulated.disconnect(connection);
        }
        self.flush_server(server);
    }

    /// Nothing gets through any more on these ways, and neither end is told.
    pub(super) fn silence(&mut self, node: usize, server: ServerId, ways: &[Way], span: Duration) {
        let until = self.calendar.now() + span;
        if let Some(wire) = self.wire(node, server) {
            ways.iter().for_each(|way| wire.silent_until[way.index()] = until);
        }
    }

    /// A session closes: what was sent before arrives.
    pub(super) fn close_link(&mut self, node: usize, server: ServerId, redial: Option<Duration>) {
        let now = self.calendar.now();
        let Some(life) = self.nodes[node].life() else { return };
        let Some(wire) = self.wire(node, server) else { return };
        let Some(connection) = wire.take() else { return };
        let at = wire.last[1].max(wire.silent_until[1]).max(now);
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
            if let Some(connection) = wire.take() {
                let at = wire.last[1].max(wire.silent_until[1]).max(now);
                self.calendar.at(at, Happening::ServerHangsUp { server: *server, connection });
            }
        }
    }
}
