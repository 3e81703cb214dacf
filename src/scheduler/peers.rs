//! All servers, and which of them have something to say. A turn costs what it touched, not how many servers there are.

use super::peer::Peer;
use crate::config::Config;
use crate::link::{self, LinkEvent, LinkHandle, LinkOptions};
use crate::model::Moment;
use crate::session::{Heard, PersistId, Request, Ticket};
use crate::store::Outcome;
use futures_util::future::join_all;
use remeet_protocol::{Address, Holder, Incoming, ServerId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::mpsc;

/// The servers of the configuration.
pub(super) struct Peers {
    peers: BTreeMap<ServerId, Peer>,
    /// The servers that are reached through a dialled one, by their addresses (rule 16).
    behind: BTreeMap<ServerId, HashMap<Address, ServerId>>,
    /// Whose session was given something: it may have heard something.
    spoken_to: BTreeSet<ServerId>,
    /// Whose session was given something, or whose link had no room: packets may wait.
    to_send: BTreeSet<ServerId>,
    /// When each wants to be woken, as [`Peer::armed`] has it, too.
    wakes: BTreeSet<(Moment, ServerId)>,
}

impl Peers {
    /// Nobody is dialled yet.
    pub(super) fn new(config: &Config, holder: Holder, wall_ms: u64) -> Self {
        let peer = |server: &crate::config::Server| (server.id, Peer::new(config, server, holder, wall_ms));
        let peers: BTreeMap<ServerId, Peer> = config.servers.iter().map(peer).collect();
        let mut behind: BTreeMap<ServerId, HashMap<Address, ServerId>> = BTreeMap::new();
        for (id, peer) in &peers {
            if let Some((dialled, _)) = peer.relayed {
                behind.entry(dialled).or_default().insert(Address::server(*id), *id);
            }
        }
        Self { peers, behind, spoken_to: BTreeSet::new(), to_send: BTreeSet::new(), wakes: BTreeSet::new() }
    }

    /// Dials every server that has an address.
    pub(super) fn dial(&mut self, config: &Config, links: &mpsc::Sender<(ServerId, LinkEvent)>) {
        for server in &config.servers {
            let (Some(peer), Some(address)) = (self.peers.get_mut(&server.id), server.address) else { continue };
            let options = LinkOptions {
                connect_timeout: config.link.connect_deadline,
                redial_max: config.link.reconnect_max,
                redial_min: config.link.reconnect_first,
                ..LinkOptions::new(server.id, address)
            };
            match link::spawn(options, links.clone()) {
                Ok(link) => peer.link = Some(link),
                // The configuration's check refuses such addresses; this is said for whoever bypasses it.
                Err(error) => tracing::error!(server = server.id.0, "this server is never dialled: {error}"),
            }
        }
    }

    pub(super) fn get(&self, id: ServerId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// All servers' ids, ascending.
    pub(super) fn ids(&self) -> impl Iterator<Item = ServerId> {
        self.peers.keys().copied()
    }

    /// Whether a server is neither reached nor known to be away yet.
    pub(super) fn any_unreached(&self) -> bool {
        self.peers.values().any(Peer::is_first_dialled)
    }

    /// A server, to be given something.
    fn touch(&mut self, id: ServerId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(&id)?;
        self.spoken_to.insert(id);
        self.to_send.insert(id);
        Some(peer)
    }

    // ---- what comes ----

    /// A link reports.
    pub(super) fn link_event(&mut self, now: Moment, server: ServerId, event: LinkEvent) {
        match event {
            LinkEvent::Packets(packets) => self.packets(now, server, packets),
            LinkEvent::Connected => {
                if let Some(peer) = self.touch(server) {
                    peer.backlog.clear();
                    peer.session.connected(now);
                }
            }
            LinkEvent::Broken(reason) => {
                if let Some(peer) = self.touch(server) {
                    peer.session.broken(now, &reason);
                }
            }
            LinkEvent::Disconnected(reason) => self.disconnected(now, server, &reason),
        }
    }

    fn disconnected(&mut self, now: Moment, server: ServerId, reason: &str) {
        if let Some(peer) = self.touch(server) {
            peer.backlog.clear();
            peer.session.disconnected(now, reason);
        }
        let reason = format!("the link of server {server}, which relays for it: {reason}");
        for id in self.all_behind(server) {
            let Some(peer) = self.touch(id) else { continue };
            peer.session.disconnected(now, &reason);
            if let Some((_, relay)) = &mut peer.relayed {
                relay.parent_down();
            }
        }
    }

    /// Packets of a link: of the server that is dialled, and of those that it relays for. What comes from any other
    /// address is for the dialled one's session, which counts it as a breach (rule 16).
    fn packets(&mut self, now: Moment, server: ServerId, packets: Vec<Incoming>) {
        for packet in packets {
            let source = match &packet {
                Ok(packet) => packet.source,
                Err(rejected) => rejected.head.source,
            };
            let behind = self.behind.get(&server).and_then(|behind| behind.get(&source));
            if let Some(peer) = self.touch(behind.copied().unwrap_or(server)) {
                peer.session.packet(now, packet);
            }
        }
    }

    fn all_behind(&self, server: ServerId) -> Vec<ServerId> {
        self.behind.get(&server).into_iter().flat_map(HashMap::values).copied().collect()
    }

    /// A server has answered: the conversations with those behind it may begin.
    pub(super) fn reached(&mut self, now: Moment, server: ServerId) {
        if let Some((_, relay)) = self.touch(server).and_then(|peer| peer.relayed.as_mut()) {
            relay.answered();
        }
        for id in self.all_behind(server) {
            let Some(peer) = self.touch(id) else { continue };
            if let Some((_, relay)) = &mut peer.relayed {
                relay.parent_up(now);
            }
            peer.begin_if_due(now);
        }
    }

    /// See [`Session::ask`](crate::session::Session::ask).
    pub(super) fn ask(
        &mut self,
        now: Moment,
        server: ServerId,
        ticket: Ticket,
        request: Request,
        after: Option<PersistId>,
    ) {
        if let Some(peer) = self.touch(server) {
            peer.session.ask(now, ticket, request, after);
        }
    }

    /// Events of a server are stored.
    pub(super) fn acknowledge(&mut self, server: ServerId, number: u64) {
        if let Some(peer) = self.touch(server) {
            peer.session.acknowledge(number);
        }
    }

    /// Persist, then send: what awaited this leaves, or never will.
    pub(super) fn settled(&mut self, now: Moment, server: ServerId, id: PersistId, outcome: Outcome) {
        let Some(peer) = self.touch(server) else { return };
        match outcome {
            Outcome::Applied { .. } => peer.session.stored(now, id),
            Outcome::Lost { .. } => peer.session.dropped(id),
        }
    }

    /// Wakes those whose time has come.
    pub(super) fn wake(&mut self, now: Moment) {
        while let Some((at, id)) = self.wakes.first().copied()
            && at <= now
        {
            self.wakes.pop_first();
            let Some(peer) = self.touch(id) else { continue };
            peer.armed = None;
            if peer.session.next_wake().is_some_and(|(at, _)| at <= now) {
                peer.session.wake(now);
            }
            peer.begin_if_due(now);
        }
    }

    /// When to call [`wake`](Self::wake) next; right after [`hand_over`](Self::hand_over).
    pub(super) fn next_wake(&self) -> Option<Moment> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Says goodbye to all.
    pub(super) fn farewell(&mut self, now: Moment, text: &str) {
        let ids: Vec<ServerId> = self.ids().collect();
        for id in ids {
            if let Some(peer) = self.touch(id) {
                peer.session.farewell(now, text);
            }
        }
    }

    /// Ends every link, after its last words.
    pub(super) async fn close(&mut self) {
        let links: Vec<LinkHandle> = self.peers.values_mut().filter_map(|peer| peer.link.take()).collect();
        // Each may take as long as its last words: all at once.
        join_all(links.into_iter().map(LinkHandle::close)).await;
    }

    // ---- what follows ----

    /// What sessions have to tell, server by server and in order.
    pub(super) fn heard(&mut self, wall_ms: u64) -> Vec<(ServerId, Heard)> {
        let mut heard = Vec::new();
        for id in std::mem::take(&mut self.spoken_to) {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            while let Some(said) = peer.session.poll_heard() {
                peer.note(&said, wall_ms);
                heard.push((id, said));
            }
        }
        heard
    }

    /// Hands packets to the links; those for servers behind others go by the link of the one that is dialled.
    pub(super) fn hand_over(&mut self, now: Moment, may_command: bool) {
        let mut touched = std::mem::take(&mut self.to_send);
        for id in touched.clone() {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let Some((dialled, _)) = peer.relayed else { continue };
            let packets = peer.relay(now);
            if let Some(peer) = self.peers.get_mut(&dialled).filter(|_| !packets.is_empty()) {
                peer.backlog.extend(packets);
                touched.insert(dialled);
            }
        }
        for id in touched {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.relayed.is_none() {
                peer.send(may_command);
                if !peer.backlog.is_empty() {
                    // Its link had no room: once more with the next turn.
                    self.to_send.insert(id);
                }
            }
            self.arm(id);
        }
    }

    fn arm(&mut self, id: ServerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let wake = peer.next_wake();
        if wake == peer.armed {
            return;
        }
        if let Some(at) = std::mem::replace(&mut peer.armed, wake) {
            self.wakes.remove(&(at, id));
        }
        self.wakes.extend(wake.map(|at| (at, id)));
    }
}
