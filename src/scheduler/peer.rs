//! One server: its session, and its link or the one that it shares with the server that relays for it.

use crate::cascade::Relay;
use crate::config::Config;
use crate::link::{LinkHandle, SendError};
use crate::model::Moment;
use crate::recovery::lease::commands;
use crate::session::{self, Heard, Session};
use remeet_protocol::{Holder, Packet, ServerId};

/// One server: its session and its link.
pub(super) struct Peer {
    pub session: Session,
    /// Of a server that is dialled.
    pub link: Option<LinkHandle>,
    /// Of a server that is under another: which one is dialled for it, and its place behind that.
    pub relayed: Option<(ServerId, Relay)>,
    /// Packets that the link's queue had no room for.
    pub backlog: Vec<Packet>,
    /// What [`Heard`] said last: nothing yet, up or down; and since when.
    pub was_up: Option<bool>,
    pub link_since_ms: u64,
    /// When it is to be woken, as was found when it was last touched.
    pub armed: Option<Moment>,
}

impl Peer {
    pub(super) fn new(config: &Config, server: &crate::config::Server, holder: Holder, wall_ms: u64) -> Self {
        let identity = session::Identity {
            domain: config.scheduler.domain,
            name: config.scheduler.name.clone(),
            holder,
            server: server.id,
        };
        let settings = session::Settings {
            server_domain: Some(server.domain),
            seed: u64::from(server.id.0) ^ holder.0.as_u64_pair().0,
            answer_timeout: config.link.request_deadline,
            keep_alive: config.link.keep_alive,
            window: usize::try_from(config.recovery.requests_in_flight).unwrap_or(32),
            ..session::Settings::default()
        };
        Self {
            session: Session::new(identity, settings),
            link: None,
            relayed: server.under.map(|_| {
                let relay = Relay::new(config.link.reconnect_first, config.link.reconnect_max);
                (config.tree().dialled(server.id), relay)
            }),
            backlog: Vec::new(),
            was_up: None,
            link_since_ms: wall_ms,
            armed: None,
        }
    }

    /// It is being dialled for the first time: neither reached nor known to be away.
    pub(super) fn is_first_dialled(&self) -> bool {
        (self.link.is_some() || self.relayed.is_some()) && self.was_up.is_none()
    }

    /// Says Hello to a server behind another, if that is due.
    pub(super) fn begin_if_due(&mut self, now: Moment) {
        if self.relayed.as_mut().is_some_and(|(_, relay)| relay.is_due(now)) {
            self.session.connected(now);
        }
    }

    /// Of a server behind another: its packets, for the link that they leave by. A conversation that is over begins
    /// again after a pause.
    pub(super) fn relay(&mut self, now: Moment) -> Vec<Packet> {
        let Some((_, relay)) = &mut self.relayed else { return Vec::new() };
        let mut packets = Vec::new();
        while let Some(packet) = self.session.poll_packet() {
            packets.push(packet);
        }
        if let Some(reason) = self.session.wants_close().map(str::to_owned) {
            let at_least = self.session.redial_after().unwrap_or_default();
            self.session.disconnected(now, &reason);
            relay.closed(now, at_least, rand::random());
        }
        packets
    }

    /// When its session or its place behind another wants to be woken.
    pub(super) fn next_wake(&self) -> Option<Moment> {
        let relay = self.relayed.as_ref().and_then(|(_, relay)| relay.next_wake());
        self.session.next_wake().map(|(at, _)| at).into_iter().chain(relay).min()
    }

    /// Notes since when the link is as it is.
    pub(super) fn note(&mut self, heard: &Heard, wall_ms: u64) {
        let up = match heard {
            Heard::Up { .. } => true,
            Heard::Down { .. } => false,
            _ => return,
        };
        // A server that was never reached is down since the start.
        if up || self.was_up == Some(true) {
            self.link_since_ms = wall_ms;
        }
        self.was_up = Some(up);
    }

    /// Hands the session's packets to the link, all in one batch. Commands that may not be handed over count as
    /// lost on the way: the session sends them again, or gives them up.
    pub(super) fn send(&mut self, may_command: bool) {
        while let Some(packet) = self.session.poll_packet() {
            self.backlog.push(packet);
        }
        if !may_command {
            self.backlog.retain(|packet| !commands(&packet.message));
        }
        if self.backlog.is_empty() && self.session.wants_close().is_none() {
            return;
        }
        let Some(link) = &self.link else { return };
        match link.try_send(std::mem::take(&mut self.backlog)) {
            Ok(()) | Err(SendError::Closed) => {}
            // The server reads too slowly; the link cuts it if that lasts.
            Err(SendError::Full(packets)) => self.backlog = packets,
        }
        if let Some(reason) = self.session.wants_close() {
            link.close_link(reason, self.session.redial_after().unwrap_or_default());
        }
    }
}
