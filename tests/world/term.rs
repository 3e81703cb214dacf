//! The lease: the real deadlines, over the model store.

use super::{Happening, World};
use remeet::recovery::Input;
use remeet::recovery::lease::{Incumbent, LeaseAnswer, LeaseAsk, LeaseChange};
use remeet::store::{Begun, Candidate};
use remeet_protocol::{Holder, Token};
use std::time::Duration;

/// What is counted: terms that began for a server's word of a higher epoch.
pub(super) const ABOVE_LOST: &str = "a term begins above those that the database has lost";
/// The store's calls about the lease give up after this long.
const DEADLINE: Duration = Duration::from_millis(500);

impl World {
    /// What is due about the lease.
    pub(super) fn tend_lease(&mut self, node: usize) {
        let now = self.calendar.now();
        let Some(process) = &mut self.nodes[node].process else { return };
        let change = process.lease.wake(now);
        let ask = process.lease.ask(now);
        if let Some(ask) = ask {
            process.asked_at = now;
            let (life, holder) = (process.life, process.holder);
            let pause = self.dice.pause(self.options.store_delay);
            self.calendar.after(pause, Happening::LeaseAsked { life, node, holder, ask, late: false });
        }
        self.lease_changed(node, change);
    }

    /// The question is at the store. One whose outcome stays unknown may have been granted, or is yet to be; so may a
    /// dead process's.
    pub(super) fn lease_asked(&mut self, life: u64, node: usize, holder: Holder, ask: LeaseAsk, late: bool) {
        let lives = self.node_of(life).is_some();
        let failed = |reason: &str| LeaseAnswer::Failed(reason.to_owned());
        if self.is_store_away(Some(node)) {
            let answer = failed("the store is down");
            return self.calendar.after(DEADLINE, Happening::LeaseAnswered { life, answer });
        }
        if late || !lives {
            if late || self.dice.chance(0.5) {
                self.lease_carried_out(node, holder, &ask);
            }
            return;
        }
        let unknown = self.dice.chance(self.options.unknown_commits);
        let pause = self.dice.pause(self.options.store_delay);
        let answer = match unknown.then(|| self.dice.below(3)) {
            None => self.lease_carried_out(node, holder, &ask),
            Some(fate) => {
                if fate == 0 {
                    self.lease_carried_out(node, holder, &ask);
                } else if fate == 1 {
                    let until = self.options.pause(&mut self.dice, self.options.store_delay * 6);
                    self.calendar.after(until, Happening::LeaseAsked { life, node, holder, ask, late: true });
                }
                failed("the commit's outcome is unknown")
            }
        };
        self.calendar.after(pause, Happening::LeaseAnswered { life, answer });
    }

    fn lease_carried_out(&mut self, node: usize, holder: Holder, ask: &LeaseAsk) -> LeaseAnswer {
        let (now, lease) = (self.calendar.now(), self.options.lease);
        match *ask {
            LeaseAsk::Renew(token) => match self.store.renew(now, token, lease) {
                Ok(()) => LeaseAnswer::Renewed,
                Err(_) => LeaseAnswer::Fenced,
            },
            LeaseAsk::Begin { above } => {
                let candidate = Candidate { node: self.nodes[node].name, holder, lease, epoch_above: above };
                let copy = self.before_grant();
                match self.store.begin_term(now, candidate) {
                    Begun::Granted(token) => {
                        self.check_granted(token);
                        self.granted(copy);
                        LeaseAnswer::Granted(token)
                    }
                    Begun::Held(standing) => LeaseAnswer::Held(Incumbent {
                        node: standing.node,
                        epoch: standing.token.epoch,
                        remaining: standing.remaining,
                    }),
                }
            }
        }
    }

    pub(super) fn lease_answered(&mut self, life: u64, answer: LeaseAnswer) {
        let (now, lease) = (self.calendar.now(), self.options.lease);
        let Some(node) = self.node_of(life) else { return };
        let Some(process) = &mut self.nodes[node].process else { return };
        if matches!(answer, LeaseAnswer::Granted(_) | LeaseAnswer::Renewed) {
            // Rule 5, by a sum of its own: from before the question was asked.
            process.lease_ends = process.asked_at + lease;
        }
        let change = process.lease.answered(now, answer);
        self.lease_changed(node, change);
        self.pump(node);
    }

    fn lease_changed(&mut self, node: usize, change: Option<LeaseChange>) {
        match change {
            Some(LeaseChange::Began { token, lost }) => {
                if let Some(known) = lost {
                    self.check_went_back(token, known);
                    *self.faults.entry(ABOVE_LOST).or_default() += 1;
                }
                self.input_at(node, Input::TermBegan(token));
            }
            Some(LeaseChange::Over(_)) => self.end_life(node, Duration::ZERO),
            Some(LeaseChange::Lapsed) => *self.faults.entry("a lease lapses").or_default() += 1,
            Some(LeaseChange::Held(_) | LeaseChange::Resumed) | None => {}
        }
    }

    /// A release is told to whoever waits for it.
    pub(super) fn released(&mut self, token: Token) {
        if self.store_down {
            return;
        }
        // Another term may have begun since.
        let _ = self.store.release(token);
        let now = self.calendar.now();
        for node in 0..self.nodes.len() {
            if let Some(process) = &mut self.nodes[node].process {
                process.lease.released(now);
                self.pump(node);
            }
        }
    }
}
