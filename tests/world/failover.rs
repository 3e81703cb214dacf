//! A database that fails over to a copy which lacks what was written last: the grant of a term, and all since (design §6).
//!
//! What only the lost part said is gone: no daemon can know of it, and the checks allow for that, for what was lost and
//! nothing else. That terms stand above the lost ones, and that all is recovered, they ask as ever.

use super::World;
use super::clients::{add, create, number};
use super::options::Options;
use super::store::{Answers, Kept, Store};
use super::term::ABOVE_LOST;
use remeet::model::{CommandId, StoredState};
use remeet_protocol::message::ClientOp;
use remeet_protocol::record::RecordKey;
use remeet_protocol::{LegId, Secret, ServerId, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a fault is called that lets the database fail over.
pub(super) const LOST: &str = "the database loses its last grant and what followed";

/// The copy: what the database was before a grant.
pub(super) struct Copy {
    term: Option<Token>,
    lease: (String, Option<(i128, Duration)>),
    legs: BTreeMap<LegId, Kept>,
    answers: BTreeMap<u64, Answers>,
}

/// Who had told of what, for the check of rule 15.
type ToldOf = BTreeMap<LegId, BTreeSet<u64>>;

/// A failover that is to come.
pub(super) enum Failover {
    /// The next grant will be lost, and what is written so long after it.
    Due(Duration),
    /// The copy that takes over has not heard of it.
    Lags(Box<Copy>, ToldOf),
}

/// What nobody can know any more.
#[derive(Default)]
pub(super) struct Lost {
    /// Terms; a server may have admitted one.
    pub(super) terms: Vec<Token>,
    /// Terms that were lost and granted again, to the same asker: its question was asked twice.
    pub(super) again: Vec<Token>,
    /// Legs whose state or place on a server was another one in what was lost.
    pub(super) places: BTreeSet<LegId>,
    /// Of these, whose start was lost: they stand as never started, or not at all.
    pub(super) starts: BTreeSet<LegId>,
    /// Of these, whose end was: for a while the cache refuses what is written of them in a term that is not above the lost
    /// ones.
    pub(super) ended: BTreeSet<LegId>,
    /// Keys that were lost, of legs that stand under another one, or not at all.
    pub(super) keys: BTreeMap<LegId, Secret>,
    /// Client commands of which an intent or the answer was lost: a repeat is carried out anew.
    pub(super) commands: BTreeSet<CommandId>,
}

impl Lost {
    /// The scheduler of this term does not know that the term was lost, and speaks of what was written in it.
    pub(super) fn term(&self, token: Option<Token>) -> bool {
        token.is_some_and(|token| self.terms.contains(&token) || self.again.contains(&token))
    }
}

impl Store {
    fn copy(&self) -> Copy {
        let (term, lease) = (self.term, self.lease.clone());
        Copy { term, lease, legs: self.legs.clone(), answers: self.answers.clone() }
    }

    /// The copy takes over. Answers what it lacks, but for terms.
    fn fail_over(&mut self, copy: Copy) -> Lost {
        let legs = std::mem::replace(&mut self.legs, copy.legs);
        let answers = std::mem::replace(&mut self.answers, copy.answers);
        (self.term, self.lease) = (copy.term, copy.lease);
        let mut lost = Lost::default();
        for (leg, was) in legs {
            let kept = self.legs.get(&leg);
            let place = |kept: &Kept| (kept.row.state, kept.row.boot, kept.row.handle);
            if kept.is_none_or(|kept| kept.key.secret.expose() != was.key.secret.expose()) {
                lost.keys.insert(leg, was.key.secret.clone());
            }
            if kept.is_some_and(|kept| place(kept) == place(&was)) {
                continue;
            }
            lost.places.insert(leg);
            if kept.is_none_or(|kept| kept.row.state == StoredState::Created) {
                lost.starts.insert(leg);
            }
            if was.row.state == StoredState::Ended {
                lost.ended.insert(leg);
            }
        }
        for (command, intents) in &mut self.made {
            let before = intents.len();
            intents.retain(|(leg, number)| self.legs.get(leg).is_some_and(|kept| kept.taken.contains_key(number)));
            if intents.len() < before {
                lost.commands.insert(*command);
            }
        }
        self.made.retain(|_, intents| !intents.is_empty());
        for (instance, answers) in answers {
            let kept = self.answers.get(&instance);
            let gone =
                answers.kept.into_keys().filter(|number| kept.is_none_or(|kept| !kept.kept.contains_key(number)));
            lost.commands.extend(gone.map(|number| CommandId { instance, number }));
        }
        lost
    }
}

impl World {
    /// The next grant will be lost, and what is written so long after it.
    pub(super) fn lose_next_grant(&mut self, after: Duration) {
        self.failover = Some(Failover::Due(after));
    }

    /// A term is about to be granted: the copy that may take over has not heard of it.
    pub(super) fn before_grant(&self) -> Option<Failover> {
        matches!(self.failover, Some(Failover::Due(_)))
            .then(|| Failover::Lags(Box::new(self.store.copy()), self.seen.told_of.clone()))
    }

    /// It was granted.
    pub(super) fn granted(&mut self, copy: Option<Failover>) {
        if let (Some(Failover::Due(after)), Some(copy)) = (&self.failover, copy) {
            let after = *after;
            self.failover = Some(copy);
            self.later(after, World::fail_over);
        }
    }

    /// The copy takes over, if one is to.
    pub(super) fn fail_over(&mut self) {
        let Some(Failover::Lags(copy, told_of)) = self.failover.take() else { return };
        let lost = self.store.fail_over(*copy);
        // The cache has them under the right generation all the same.
        self.wrong_keys.extend(lost.keys.keys());
        self.carried_out.retain(|(_, leg, number), _| self.store.has_intent(*leg, *number));
        for command in &lost.commands {
            if let Some(client) = self.clients.get_mut(&command.instance) {
                client.answered.remove(&command.number);
            }
        }
        self.forget_lost(lost, told_of);
        self.fault(LOST);
    }
}

#[test]
fn a_database_that_lost_a_grant_hears_of_it_from_a_server_and_a_term_above_it_begins() {
    let mut world = World::new(1, Options { servers: 2, ..Options::default() });
    let legs = world.start_meetings(ServerId(1), 3, 2);
    world.lose_next_grant(Duration::from_millis(300));
    world.restart(Duration::from_millis(5));
    world.run_until("the loss", |world| world.faults.contains_key(LOST));
    assert_eq!(world.seen.lost.terms.iter().map(|token| token.epoch.0).collect::<Vec<_>>(), [2]);
    let epoch = |leg: &LegId| world.store.legs[leg].row.epoch.0;
    assert!(legs.iter().all(|leg| epoch(leg) == 1), "they had been taken over in the lost term");
    world.quiet();
    assert_eq!(world.store.term.map(|token| token.epoch.0), Some(3), "2 was granted again, and a server knew it");
    assert_eq!(world.faults.get(ABOVE_LOST), Some(&1));
    world.repeat_everything();
}

#[test]
fn a_command_whose_number_the_database_has_lost_is_carried_out_and_so_is_a_start() {
    let mut world = World::new(1, Options { servers: 2, ..Options::default() });
    let legs = world.start_meetings(ServerId(1), 1, 2);
    let made = world.new_meeting();
    world.done(1, made, create(made, ServerId(1)));
    world.lose_next_grant(Duration::from_secs(3));
    world.restart(Duration::from_millis(5));
    world.run_until("the lost term", |world| world.store.term.is_some_and(|token| token.epoch.0 == 2));
    world.quiet();
    // Both are done, and lost.
    world.done(1, legs[0].meeting, add(7));
    world.done(1, made, ClientOp::Start);
    world.run_until("the loss", |world| world.faults.contains_key(LOST));
    world.quiet();
    world.done(1, made, ClientOp::Start);
    for meeting in [legs[0].meeting, made] {
        world.done(1, meeting, add(8));
    }
    world.quiet();
    let key = RecordKey::Terminal(number(8));
    for leg in world.live_legs(ServerId(1)) {
        assert!(leg.records.iter().any(|record| record.record.key() == key), "{leg:?}");
    }
    assert_eq!(world.live_legs(ServerId(1)).len(), 2);
    world.repeat_everything();
}
