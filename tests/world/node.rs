//! A machine that a scheduler runs on: its process lives, is paused, dies; its ways to the servers and to the database.

use super::network::Wire;
use super::process::Process;
use super::{Happening, World};
use remeet::model::Moment;
use remeet::recovery::lease::Lease;
use remeet_protocol::{ServerId, Token};
use std::collections::BTreeMap;
use std::time::Duration;

/// What happens to a process between two of its outputs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interrupt {
    /// It is killed, when so many of the packets that it gives to the links have left.
    Kill {
        /// The first so many leave.
        sends: usize,
    },
    /// It is stopped (SIGSTOP), and goes on later.
    Pause(Duration),
    /// The same, after it has made up its mind to send and before anything has left (a pause in mid-send).
    PauseInSend(Duration),
}

/// When it happens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// After so many outputs of the present or next life.
    pub(super) outputs: u64,
    pub(super) interrupt: Interrupt,
    /// What it counts as once it has happened.
    pub(super) fault: &'static str,
    /// Of a fault: only in this life, and the process starts again so long after a kill.
    pub(super) drawn: Option<(u64, Duration)>,
}

/// A machine.
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) process: Option<Process>,
    pub(super) wires: BTreeMap<ServerId, Wire>,
    pub(super) interrupt: Option<Due>,
    pub(super) paused_until: Moment,
    /// It does not reach the database.
    pub(super) store_cut: bool,
    /// Of a life that ended while its process lives on.
    pub(super) lease: Option<Lease>,
    /// How far its wall clock is ahead.
    pub(super) wall_ahead_ms: u64,
}

impl Node {
    pub(super) fn new(seed: u64, place: usize, servers: &[ServerId]) -> Self {
        Self {
            name: ["a", "b"][place],
            process: None,
            wires: servers.iter().map(|server| (*server, Wire::new(seed, place, *server))).collect(),
            interrupt: None,
            paused_until: Moment(0),
            store_cut: false,
            lease: None,
            wall_ahead_ms: 0,
        }
    }

    pub(super) fn life(&self) -> Option<u64> {
        self.process.as_ref().map(|process| process.life)
    }

    pub(super) fn is_paused(&self, now: Moment) -> bool {
        now < self.paused_until
    }

    /// It holds this term, as far as it knows.
    pub(super) fn holds(&self, token: Option<Token>) -> bool {
        self.process.as_ref().is_some_and(|process| token.is_some() && process.core.token() == token)
    }
}

impl World {
    /// The node whose process lives this life.
    pub(super) fn node_of(&self, life: u64) -> Option<usize> {
        self.nodes.iter().position(|node| node.life() == Some(life))
    }

    /// The node whose scheduler holds the term that stands; or the first that lives.
    pub(super) fn commander(&self) -> Option<usize> {
        let holds = |node: &Node| node.holds(self.store.term);
        self.nodes.iter().position(holds).or_else(|| self.nodes.iter().position(|node| node.process.is_some()))
    }

    /// The process ends without a word. What it sent may arrive, what it gave to the store may be stored.
    pub(super) fn crash(&mut self, node: usize) {
        let machine = &mut self.nodes[node];
        (machine.process, machine.lease, machine.paused_until) = (None, None, Moment(0));
        self.drop_links(node);
    }

    /// Kills the scheduler after so many outputs of its present or next life.
    pub(super) fn kill_after(&mut self, outputs: u64) {
        self.kill_at(outputs, usize::MAX);
    }

    /// The same, and says how many packets of its last step leave.
    pub(super) fn kill_at(&mut self, outputs: u64, sends: usize) {
        let (interrupt, fault) = (Interrupt::Kill { sends }, "the scheduler is killed");
        self.nodes[0].interrupt = Some(Due { outputs, interrupt, fault, drawn: None });
    }

    /// The kill is still to come.
    pub(super) fn kill_is_due(&self) -> bool {
        self.nodes[0].interrupt.is_some()
    }

    /// The process stands still, and runs again after `span`.
    pub(super) fn pause(&mut self, node: usize, span: Duration) {
        let machine = &mut self.nodes[node];
        machine.paused_until = self.calendar.now() + span;
        if let Some(life) = machine.life() {
            self.calendar.at(machine.paused_until, Happening::Wake { life });
        }
    }

    /// An operator hands over: what is under way is left to itself, then the lease is released. False: there is none.
    pub(super) fn step_down(&mut self, node: usize) -> bool {
        let process = self.nodes[node].process.as_ref();
        let Some(token) = process.and_then(|process| process.lease.token()) else { return false };
        let lease = self.options.lease;
        self.end_life(node, lease);
        // Later than any commit that is under way.
        self.calendar.after(self.options.store_delay * 2, Happening::Released { token });
        true
    }

    /// The life is over, the process goes on: as a standby that holds back for so long.
    pub(super) fn end_life(&mut self, node: usize, hold_back: Duration) {
        let now = self.calendar.now();
        let Some(process) = self.nodes[node].process.take() else { return };
        let mut lease = process.lease;
        lease.live_again(now + hold_back);
        self.nodes[node].lease = Some(lease);
        self.drop_links(node);
        self.calendar.after(Duration::from_millis(5), Happening::Boot { node });
    }
}
