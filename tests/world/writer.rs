//! Group commit as the driver does it: the real lanes, over the model store; unknown commits are settled.

use super::options::DeadCommits;
use super::process::Process;
use super::store::Store;
use super::{Happening, Site, World};
use remeet::recovery::lanes::{Batch, Units, settled};
use remeet::session::PersistId;
use remeet::store::{Outcome, Unit, Write};
use remeet_protocol::Token;
use std::time::Duration;

fn units(units: &Units) -> Vec<&Unit> {
    units.iter().map(|(_, unit)| unit).collect()
}

impl World {
    pub(super) fn begin_batches(&mut self, process: &mut Process) {
        let Some(token) = process.core.token() else { return };
        while let Some(batch) = process.lanes.begin() {
            let pause = batch.pause.unwrap_or_default() + self.dice.pause(self.options.store_delay);
            self.calendar.after(pause, Happening::Commit { life: process.life, token, batch });
        }
    }

    /// The moment of a batch's commit. That of a dead process may still come through, or not
    /// ([`super::Options::dead_commits`]).
    pub(super) fn commit(&mut self, life: u64, token: Token, batch: Batch) {
        let node = self.node_of(life);
        let stands = |world: &mut Self| match world.options.dead_commits {
            DeadCommits::Drawn => world.dice.chance(0.5),
            DeadCommits::Stand => true,
            DeadCommits::Lost => false,
            DeadCommits::EveryOther => batch.lane.is_multiple_of(2),
        };
        if node.is_none() && !stands(self) {
            return;
        }
        let pause = self.dice.pause(self.options.store_delay);
        if self.is_store_away(node) {
            let deadline = Duration::from_millis(100);
            return self.calendar.after(deadline, Happening::Unwritten { life, batch, fenced: false });
        }
        if self.dice.chance(self.options.unknown_commits) {
            *self.faults.entry("a commit's outcome is unknown").or_default() += 1;
            let stood = self.dice.chance(0.4).then(|| self.stored(token, &batch.units)).flatten();
            return self.calendar.after(pause, Happening::Settle { life, token, batch, stood });
        }
        match self.stored(token, &batch.units) {
            Some(outcomes) => {
                let outcomes = batch.units.iter().map(|(id, _)| *id).zip(outcomes).collect();
                let written = Happening::Written { life, lane: batch.lane, outcomes, again: Vec::new() };
                self.calendar.after(pause, written);
            }
            // A term that is over: nothing was written.
            None => self.calendar.after(pause, Happening::Unwritten { life, batch, fenced: true }),
        }
    }

    /// A call to the store fails. Asked at the moment of the call.
    pub(super) fn is_store_away(&mut self, node: Option<usize>) -> bool {
        if self.store_down {
            self.bites(Site::Store);
            return true;
        }
        let Some(node) = node.filter(|node| self.nodes[*node].store_cut) else { return false };
        self.bites(Site::StoreOf(node));
        true
    }

    fn come_late(&mut self, token: Token, units: Units, settled: bool) {
        if units.is_empty() {
            return;
        }
        let longest = if self.dice.chance(0.1) { self.options.lease * 2 } else { self.options.store_delay * 6 };
        let pause = self.dice.pause(longest);
        self.calendar.after(pause, Happening::LateCommit { token, units, settled });
    }

    /// The statement arrives when its sender is dead, or has long read the rows again.
    pub(super) fn late_commit(&mut self, token: Token, late: &Units, settled: bool) {
        if self.store_down {
            return;
        }
        let outcomes = self.stored(token, late).unwrap_or_default();
        let stands = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Applied { .. }));
        assert!(!(settled && stands), "rule 12: a commit that was settled as lost stands after all: {late:?}");
    }

    fn stored(&mut self, token: Token, batch: &Units) -> Option<Vec<Outcome>> {
        let outcomes = self.store.write(token, &units(batch)).ok();
        if outcomes.is_some() {
            self.commits += 1;
            self.check_written(token, batch);
        }
        self.check_transitions();
        outcomes
    }

    /// After an unknown commit: what compares a version is the core's to plan anew, the rest is written again.
    pub(super) fn settle(&mut self, life: u64, token: Token, batch: Batch, stood: Option<&[Outcome]>) {
        let node = self.node_of(life);
        let may_be_late = stood.is_none() && self.dice.chance(0.5);
        let Some(node) = node else {
            if may_be_late {
                self.come_late(token, batch.units, false);
            }
            return;
        };
        if self.is_store_away(Some(node)) {
            let stood = stood.map(<[Outcome]>::to_vec);
            return self.calendar.after(Duration::from_millis(100), Happening::Settle { life, token, batch, stood });
        }
        let pause = self.dice.pause(self.options.store_delay);
        let Ok(outcomes) = Store::settle(&mut self.store, token, &units(&batch.units), stood) else {
            return self.calendar.after(pause, Happening::Unwritten { life, batch, fenced: true });
        };
        if may_be_late {
            // What compares a version that was raised, and loses. The rest cannot be late any more: settling ends the
            // session that it was written on.
            let mut late = batch.units.clone();
            late.retain(|(_, unit)| {
                let compares = unit.writes.iter().any(|write| matches!(write, Write::State(_)));
                compares && unit.writes.iter().filter_map(Write::leg).all(|leg| self.store.legs.contains_key(&leg))
            });
            self.come_late(token, late, true);
        }
        let (known, again) = settled(batch.units, outcomes);
        self.calendar.after(pause, Happening::Written { life, lane: batch.lane, outcomes: known, again });
    }

    pub(super) fn batch_ended(&mut self, life: u64, lane: usize, outcomes: Vec<(PersistId, Outcome)>, again: Units) {
        let Some(node) = self.node_of(life) else { return };
        if let Some(process) = &mut self.nodes[node].process {
            process.lanes.end(lane, true, again);
        }
        self.written(life, outcomes);
        // An empty list of outcomes must still begin the next batch.
        self.wake(life);
    }

    /// Nothing was written: the store did not answer, or another term stands.
    pub(super) fn batch_failed(&mut self, life: u64, batch: Batch, fenced: bool) {
        let Some(node) = self.node_of(life) else { return };
        let Some(process) = &mut self.nodes[node].process else { return };
        if fenced {
            process.lease.fenced();
            return self.end_life(node, Duration::ZERO);
        }
        process.lanes.end(batch.lane, false, batch.units);
        self.pump(node);
    }
}
