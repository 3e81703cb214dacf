//! Rule 10: which source serves a recovery key, and what comes of a bad one.

use super::options::{Options, seed};
use super::*;
use futures_util::FutureExt;
use remeet::model::RecoveryKey;
use remeet::recovery::{AlarmKind, RoundReport, Trigger};
use remeet::store::Cache;
use remeet_protocol::Secret;

const SERVER: ServerId = ServerId(1);

/// Three meetings at rest, in a second life of the scheduler.
fn recovered(seed: u64) -> (World, Vec<LegId>) {
    let mut world = World::new(seed, Options { servers: 1, ..Options::default() });
    let legs = world.start_meetings(SERVER, 3, 1);
    world.quiet();
    world.restart(Duration::from_millis(5));
    world.quiet();
    (world, legs)
}

impl World {
    fn reads_of(&self, kind: &str) -> u64 {
        self.process().and_then(|process| process.reads.get(kind).copied()).unwrap_or(0)
    }

    /// The link breaks and comes back: a later pass of the same term.
    fn later_pass(&mut self) -> RoundReport {
        self.break_link(SERVER, "a later pass");
        self.run_for(Duration::from_millis(1));
        self.run_until("a later pass", |world| {
            let view = &world.core().server_views()[0];
            view.attached && view.round.is_none()
        });
        self.report(Trigger::LinkRestored)
    }

    fn forget_cached_key(&mut self, leg: LegId) {
        let named = [(super::servers::DOMAIN, leg)];
        self.cache.forget_keys(&named).now_or_never().unwrap().unwrap();
    }

    fn cache_key(&mut self, key: &RecoveryKey) {
        let epoch = self.store.term.unwrap().epoch;
        self.cache.put_keys(epoch, std::slice::from_ref(key)).now_or_never().unwrap().unwrap();
    }

    fn alarms_of(&self, kind: AlarmKind) -> usize {
        self.process().unwrap().alarms.iter().filter(|alarm| alarm.kind == kind).count()
    }
}

#[test]
fn rule_10_the_first_pass_of_a_term_looks_into_the_database_only() {
    let (world, _) = recovered(seed(60));
    let report = world.report(Trigger::Restart);
    assert_eq!((report.live, report.recovered), (3, 3));
    assert_eq!((report.keys_from_database, report.keys_from_cache), (3, 0));
    assert_eq!(world.reads_of("cached keys"), 0, "the cache is full of keys, and not asked");
}

#[test]
fn rule_10_a_first_pass_that_fails_half_way_does_not_turn_to_the_cache() {
    for pause in 0..40 {
        let (mut world, _) = recovered(seed(61));
        world.restart(Duration::from_millis(5));
        world.run_for(Duration::from_millis(5 + pause));
        world.break_link(SERVER, "in its first pass");
        let first = |world: &World| {
            let process = world.process()?;
            process.core.server_views()[0].reports.get(&Trigger::Restart).cloned()
        };
        world.run_until("a term's first pass", |world| first(world).is_some());
        let first = first(&world).unwrap();
        assert_eq!((first.recovered, first.keys_from_cache), (3, 0), "after {pause} ms");
        world.quiet();
    }
}

#[test]
fn rule_10_later_passes_look_into_the_cache_and_nowhere_else() {
    let (mut world, _) = recovered(seed(62));
    let (look_ups, legs) = (world.reads_of("look-up"), world.reads_of("legs"));
    let report = world.later_pass();
    assert_eq!((report.recovered, report.keys_from_database, report.keys_from_cache), (3, 0, 3));
    assert_eq!((world.reads_of("look-up"), world.reads_of("legs")), (look_ups, legs), "no row was read");
    world.quiet();
}

#[test]
fn rule_10_a_key_that_the_cache_lacks_comes_from_the_database() {
    let (mut world, legs) = recovered(seed(63));
    world.forget_cached_key(legs[1]);
    let report = world.later_pass();
    assert_eq!((report.recovered, report.keys_from_database, report.keys_from_cache), (3, 1, 2));
    world.quiet();
}

#[test]
fn rule_10_a_cache_that_is_away_costs_nothing_but_its_use() {
    let (mut world, _) = recovered(seed(64));
    world.cache_down = true;
    let report = world.later_pass();
    assert_eq!((report.recovered, report.keys_from_database, report.keys_from_cache), (3, 3, 0));
    world.cache_down = false;
    world.input(Input::Reconcile(None));
    world.quiet();
}

#[test]
fn rule_10_a_key_of_another_generation_than_memorys_is_not_used() {
    let (mut world, legs) = recovered(seed(65));
    // A higher generation than the database has: it cannot be, so the operator is told.
    let key = world.store.legs[&legs[0]].key.clone();
    world.cache_key(&RecoveryKey { generation: 9, secret: Secret::new([5; 16]), ..key });
    // A lower one: stale.
    world.forget_cached_key(legs[1]);
    let key = world.store.legs[&legs[1]].key.clone();
    world.cache_key(&RecoveryKey { generation: 0, secret: Secret::new([6; 16]), ..key });
    let report = world.later_pass();
    assert_eq!((report.recovered, report.keys_from_database, report.keys_from_cache), (3, 2, 1));
    assert_eq!(world.alarms_of(AlarmKind::CacheDisagrees), 1);
    assert_eq!(world.servers[&SERVER].core.stats().bad_keys, 0, "neither was tried");
}

#[test]
fn rule_10_a_bad_cached_key_is_read_from_the_database_before_anything_is_said() {
    let (mut world, legs) = recovered(seed(66));
    world.forget_cached_key(legs[2]);
    let key = world.store.legs[&legs[2]].key.clone();
    world.cache_key(&RecoveryKey { secret: Secret::new([7; 16]), ..key });
    world.wrong_keys.insert(legs[2]);
    let report = world.later_pass();
    assert_eq!((report.recovered, report.pending_total()), (3, 0));
    assert_eq!((report.keys_from_database, report.keys_from_cache), (1, 2));
    assert_eq!(world.servers[&SERVER].core.stats().bad_keys, 1, "it was tried once");
    assert_eq!((world.alarms_of(AlarmKind::CacheDisagrees), world.alarms_of(AlarmKind::BadKey)), (1, 0));
}

#[test]
fn a_bad_key_from_the_database_is_told_once_and_nothing_is_closed() {
    let (mut world, legs) = recovered(seed(67));
    world.forget_cached_key(legs[2]);
    let right = world.store.legs[&legs[2]].key.secret.clone();
    world.store.legs.get_mut(&legs[2]).unwrap().key.secret = Secret::new([8; 16]);
    world.wrong_keys.insert(legs[2]);
    let report = world.later_pass();
    assert_eq!((report.recovered, report.pending.get("bad key")), (2, Some(&1)));
    for _ in 0..3 {
        world.input(Input::Reconcile(None));
        world.run_for(Duration::from_secs(2));
    }
    // A round that does not come to try it ends nothing.
    world.at_server(SERVER, |core, _| core.set_busy(Some(200)));
    world.input(Input::Reconcile(None));
    world.run_for(Duration::from_secs(12));
    world.at_server(SERVER, |core, _| core.set_busy(None));
    world.run_for(Duration::from_secs(8));
    let over = world.process().unwrap().alarms_over.len();
    assert_eq!((world.alarms_of(AlarmKind::BadKey), over), (1, 0), "told once, however many rounds");
    assert!(world.live_legs(SERVER).iter().any(|leg| leg.leg == legs[2]), "it goes on");
    // Somebody restores the row.
    world.store.legs.get_mut(&legs[2]).unwrap().key.secret = right;
    world.input(Input::Reconcile(None));
    world.quiet();
    let over = &world.process().unwrap().alarms_over;
    assert_eq!(over.iter().filter(|alarm| alarm.kind == AlarmKind::BadKey).count(), 1);
}
