//! The simulated servers: the simulator's pure core, hangs and restarts.

use super::options::Dice;
use super::{Happening, Site, World};
use remeet::simulator::core::dump::{Dump, LegDump};
use remeet::simulator::core::leg::LegHead;
use remeet::simulator::core::script::{Kind, Script};
use remeet::simulator::core::{ConnectionId, Core, Misbehaviour, Output, Settings};
use remeet_protocol::message::{LegState, Message, TakeoverClaim};
use remeet_protocol::proof::{Claim, verify};
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, DomainId, LegId, Packet, ServerId};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub(super) const DOMAIN: DomainId = DomainId(1);

/// The first pause before unacknowledged events are sent again on links that lose packets, and the longest (SPEC E-5).
pub(super) const EVENTS_AGAIN: Duration = Duration::from_secs(1);
const EVENTS_AGAIN_MAX: Duration = Duration::from_secs(8);

/// A server.
pub(super) struct Simulated {
    pub(super) core: Core,
    settings: Settings,
    /// It hangs: what comes waits.
    hangs: bool,
    /// It is busy, or breaks the protocol.
    pub(super) ails: bool,
    /// What it has not read yet; `None` is the connection's end.
    waiting: VecDeque<(ConnectionId, Option<Packet>)>,
    /// An acknowledgement has come since events were sent again last.
    acknowledged: bool,
    /// Claims under way whose proof is not of the leg's key, by their requests.
    pub(super) unproven: BTreeSet<(ConnectionId, u64, LegId)>,
    dice: Dice,
}

impl Simulated {
    pub(super) fn new(seed: u64, server: ServerId, event_queue: usize, removals: usize) -> Self {
        let settings = Settings {
            server,
            domain: DOMAIN,
            scheduler_domain: DOMAIN,
            name: Text::cut(&format!("server {server}")),
            permit_adopt: true,
            event_queue,
            removals,
            keep_alive_ms: 5_000,
            journal: false,
        };
        let mut dice = Dice::new(seed, 2_000 + u64::from(server.0));
        let boot = BootId::from_bytes(dice.bytes());
        let core = Core::new(settings.clone(), boot, dice.below(u64::MAX));
        Self {
            core,
            settings,
            hangs: false,
            ails: false,
            waiting: VecDeque::new(),
            acknowledged: false,
            unproven: BTreeSet::new(),
            dice,
        }
    }

    /// The connection's end, behind what came on it before.
    pub(super) fn disconnect(&mut self, connection: ConnectionId) {
        if self.hangs {
            self.waiting.push_back((connection, None));
        } else {
            self.core.disconnect(connection);
        }
    }

    /// Legs that a takeover claims with a proof that is not of the key which they run under.
    fn wrong_claims(&self, packet: &Packet) -> Vec<LegId> {
        let (Message::Takeover(takeover), Some(token)) = (&packet.message, self.core.highest_token()) else {
            return Vec::new();
        };
        let wrong = |claim: &&TakeoverClaim| {
            let said = Claim {
                server: self.settings.server,
                boot: self.core.boot(),
                handle: claim.handle,
                leg: claim.leg,
                token,
            };
            let leg = self.core.table().leg(claim.handle);
            leg.is_some_and(|leg| !verify(&leg.head.secret, &said, &claim.proof))
        };
        takeover.claims.iter().filter(wrong).map(|claim| claim.leg).collect()
    }

    /// The leg, live.
    pub(super) fn live(&self, leg: LegId) -> Option<&LegHead> {
        self.core.table().legs().find(|entry| entry.head.id == leg && entry.is_live()).map(|entry| &entry.head)
    }
}

impl World {
    pub(super) fn serve(&mut self, server: ServerId, connection: ConnectionId, packet: Packet) {
        let now_ms = self.wall_ms();
        let Some(simulated) = self.servers.get_mut(&server) else { return };
        if simulated.hangs {
            simulated.waiting.push_back((connection, Some(packet)));
            return self.bites(Site::Hang(server));
        }
        let before = simulated.core.stats();
        simulated.acknowledged |= matches!(packet.message, Message::EventAck(_));
        let unproven = simulated.wrong_claims(&packet);
        let request = packet.header.request;
        simulated.core.receive(now_ms, connection, packet);
        simulated.unproven.extend(unproven.into_iter().map(|leg| (connection, request, leg)));
        let after = simulated.core.stats();
        self.flush_server(server);
        if (after.breaches, after.busy_answers) != (before.breaches, before.busy_answers) {
            self.bites(Site::Ails(server));
        }
    }

    /// Sends what a server has to say.
    pub(super) fn flush_server(&mut self, server: ServerId) {
        let Some(simulated) = self.servers.get_mut(&server).filter(|simulated| !simulated.hangs) else { return };
        for output in simulated.core.take_outputs() {
            match output {
                Output::Send(connection, packet) => {
                    self.check_proven(server, connection, &packet);
                    self.tap(server, &packet);
                    self.carry_back(server, connection, packet);
                }
                Output::Close(connection) => self.server_closes(server, connection),
            }
        }
    }

    /// No acknowledgement has come for a while: what waits for one is sent again, with pauses that double until one comes
    /// (SPEC E-5).
    pub(super) fn events_again(&mut self, server: ServerId, pause: Duration) {
        let Some(simulated) = self.servers.get_mut(&server) else { return };
        let next = if std::mem::take(&mut simulated.acknowledged) || simulated.core.events_waiting() == 0 {
            EVENTS_AGAIN
        } else {
            if !simulated.hangs {
                simulated.core.repeat_events();
            }
            (pause * 2).min(EVENTS_AGAIN_MAX)
        };
        self.flush_server(server);
        self.calendar.after(next, Happening::EventsAgain { server, pause: next });
    }

    /// Something happens at a server without a packet.
    pub(super) fn at_server<R>(&mut self, server: ServerId, act: impl FnOnce(&mut Core, u64) -> R) -> R {
        let now_ms = self.wall_ms();
        let simulated = self.servers.get_mut(&server).expect("a server of this world");
        let result = act(&mut simulated.core, now_ms);
        self.flush_server(server);
        result
    }

    /// The server ails for a while.
    pub(super) fn ails(&mut self, server: ServerId, span: Duration, act: impl FnOnce(&mut Core)) {
        self.at_server(server, |core, _| act(core));
        self.servers.get_mut(&server).expect("a server of this world").ails = true;
        self.later(span, move |world| world.is_well(server));
    }

    /// It is neither busy nor breaks the protocol.
    pub(super) fn is_well(&mut self, server: ServerId) {
        self.at_server(server, |core, _| (core.set_busy(None), core.misbehave(Misbehaviour::None)));
        self.servers.get_mut(&server).expect("a server of this world").ails = false;
    }

    /// Terminals join, leave, decode and tell something else, on the given legs or on all.
    pub(super) fn live_on(&mut self, server: ServerId, legs: Option<&[LegId]>, kinds: &[Kind]) {
        let seed = self.dice.below(u64::MAX);
        let meetings = legs.map(|legs| legs.iter().map(|leg| leg.meeting).collect());
        let script = Script { seed, fraction: 1.0, meetings, kinds: kinds.to_vec() };
        self.at_server(server, |core, now_ms| core.change(now_ms, &script));
    }

    /// The server stops answering for `pause`; then it answers everything that came.
    pub(super) fn hang(&mut self, server: ServerId, pause: Duration) {
        if let Some(simulated) = self.servers.get_mut(&server) {
            simulated.hangs = true;
            self.calendar.after(pause, Happening::Wakes { server });
        }
    }

    pub(super) fn hangs(&self, server: ServerId) -> bool {
        self.servers.get(&server).is_some_and(|simulated| simulated.hangs)
    }

    pub(super) fn wake_server(&mut self, server: ServerId) {
        let Some(simulated) = self.servers.get_mut(&server) else { return };
        simulated.hangs = false;
        for (connection, waiting) in std::mem::take(&mut simulated.waiting) {
            match waiting {
                Some(packet) => self.serve(server, connection, packet),
                None => self.hang_up(server, connection),
            }
        }
        self.flush_server(server);
    }

    /// The server restarts: with its tables (same boot id), or without (another one).
    pub(super) fn restart_server(&mut self, server: ServerId, tables_kept: bool) {
        let Some(simulated) = self.servers.get_mut(&server) else { return };
        let seed = simulated.dice.below(u64::MAX);
        let mut next = if tables_kept {
            let state = simulated.core.snapshot();
            Core::restore(simulated.settings.clone(), seed, &state).expect("a server reads its own state")
        } else {
            simulated.core.lost_tables(BootId::from_bytes(simulated.dice.bytes()), seed)
        };
        next.inherit(&simulated.core);
        simulated.core = next;
        (simulated.hangs, simulated.ails, simulated.waiting) = (false, false, VecDeque::new());
        self.break_link(server, "the server restarted");
    }

    /// The server's configuration permits no adoption from now on: it restarts with that.
    pub(super) fn forbid_adoption(&mut self, server: ServerId) {
        if let Some(simulated) = self.servers.get_mut(&server) {
            simulated.settings.permit_adopt = false;
        }
        self.restart_server(server, true);
    }

    /// A server's truth.
    pub(super) fn truth(&self, server: ServerId) -> Dump {
        self.servers[&server].core.dump()
    }

    /// Our live legs at a server (orphans included), in order of handle.
    pub(super) fn live_legs(&self, server: ServerId) -> Vec<LegDump> {
        self.truth(server).legs.into_iter().filter(|leg| leg.state == LegState::Live).collect()
    }
}
