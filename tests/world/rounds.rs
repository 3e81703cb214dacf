//! What a round does when something happens within it: another inventory, a crash, content that does not add up.

use super::clients::{add, tell};
use super::crash::crash_points;
use super::options::{Options, seed};
use super::trace::explained;
use super::*;
use remeet::model::StoredState;
use remeet::recovery::{AlarmKind, Trigger};
use remeet::simulator::core::Misbehaviour;
use remeet::simulator::core::script::Kind;
use remeet_protocol::message::Message;
use remeet_protocol::record::Mark;
use remeet_protocol::{BootId, Handle, RecordKey};

const SERVER: ServerId = ServerId(1);

/// What an event told.
pub(super) struct Told {
    boot: BootId,
    leg: LegId,
    handle: Handle,
    records: Vec<(RecordKey, u64)>,
}

fn at_rest(seed: u64, meetings: usize) -> (World, Vec<LegId>) {
    let mut world = World::new(seed, Options { servers: 1, ..Options::default() });
    let legs = world.start_meetings(SERVER, meetings, 2);
    world.quiet();
    (world, legs)
}

#[test]
fn quarantine_after_two_disagreeing_digests_keeps_control_and_deletes_nothing() {
    let (mut world, legs) = at_rest(seed(70), 2);
    let stored = world.store.contents(&legs);
    world.at_server(SERVER, |core, _| core.misbehave(Misbehaviour::WrongDigest));
    world.restart(Duration::from_millis(5));
    world.run_until("a round", |world| world.process().is_some() && !world.core().pending().is_empty());
    world.run_for(Duration::from_secs(1));
    let report = world.report(Trigger::Restart);
    assert_eq!((report.recovered, report.quarantined, report.missing_total), (2, 2, 2), "{report:?}");
    for leg in &legs {
        let row = &world.store.legs[leg].row;
        assert!(row.quarantine.is_some() && row.state == StoredState::InMeeting, "{row:?}");
    }
    let kept = world.store.contents(&legs);
    let records = |contents: &[LegContent]| contents.iter().map(|leg| leg.changes.clone()).collect::<Vec<_>>();
    assert_eq!(records(&kept), records(&stored), "nothing was deleted because it failed");
    // Control goes on.
    world.done(1, legs[0].meeting, tell(0, "seat", "4"));
    for _ in 0..3 {
        world.input(Input::Reconcile(None));
        world.run_for(Duration::from_secs(1));
    }
    let alarms = &world.process().unwrap().alarms;
    let texts: Vec<_> = alarms.iter().filter(|alarm| alarm.kind == AlarmKind::Quarantine).collect();
    let of_first = texts.iter().filter(|alarm| alarm.leg == Some(legs[1])).count();
    assert_eq!(of_first, 1, "one alarm, however many rounds: {texts:?}");
    // The server comes to its senses: the next comparison lifts the quarantine.
    world.at_server(SERVER, |core, _| core.misbehave(Misbehaviour::None));
    world.input(Input::Reconcile(None));
    world.quiet();
    let over = world.process().unwrap().alarms_over.iter();
    assert_eq!(over.filter(|alarm| alarm.kind == AlarmKind::Quarantine).count(), 2);
}

#[test]
fn an_inventory_asked_for_while_the_first_round_runs_follows_it_once() {
    for pause in 0..40 {
        let (mut world, _) = at_rest(seed(71), 3);
        world.restart(Duration::from_millis(5));
        world.run_for(Duration::from_millis(5 + pause));
        let queries = world.servers[&SERVER].core.stats().queries;
        let running = world.process().is_some() && world.core().server_views()[0].round.is_some();
        for _ in 0..5 {
            world.input(Input::Reconcile(None));
        }
        world.quiet();
        let after = world.servers[&SERVER].core.stats().queries - queries;
        if running {
            assert!(after <= 2, "asked five times while a round ran: {after} inventories, after {pause} ms");
            let report = world.report(Trigger::Restart);
            assert_eq!((report.live, report.recovered), (3, 3));
        }
    }
}

#[test]
fn a_table_that_moves_at_any_moment_of_the_first_round_loses_and_kills_nothing() {
    for pause in 0..60 {
        let (mut world, legs) = at_rest(seed(72), 3);
        world.restart(Duration::from_millis(5));
        world.run_for(Duration::from_millis(5));
        world.later(Duration::from_micros(500 * pause), move |world| {
            world.at_server(SERVER, |core, now_ms| core.create_foreign(now_ms, None, 1)).unwrap();
            world.at_server(SERVER, |core, _| core.end_leg(legs[1])).unwrap();
        });
        world.run_for(Duration::from_millis(60));
        world.input(Input::Reconcile(None));
        world.quiet();
        assert_eq!(world.live_legs(SERVER).len(), 3);
        assert_eq!(world.core().orphans().count(), 1);
    }
}

#[test]
fn killed_after_any_output_of_a_later_round_the_end_is_that_of_a_run_without_a_crash() {
    let before = |seed| {
        let (mut world, legs) = at_rest(seed, 3);
        world.cut(SERVER);
        world.live_on(SERVER, Some(&legs[..1]), &Kind::ALL);
        world.at_server(SERVER, |core, _| core.end_leg(legs[2])).unwrap();
        world.at_server(SERVER, |core, now_ms| core.create_foreign(now_ms, None, 1)).unwrap();
        world.ask(1, legs[1].meeting, add(5));
        world.run_for(Duration::from_millis(40));
        world.heal(SERVER);
        let outputs = world.process().unwrap().outputs;
        (world, outputs)
    };
    let seed = seed(73);
    let (mut undisturbed, begun) = before(seed);
    undisturbed.quiet();
    let expected = undisturbed.end();
    let outputs = undisturbed.process().unwrap().outputs - begun;
    assert!(outputs > 20, "a later round has many steps: {outputs}");
    for point in crash_points(outputs) {
        explained(|| {
            let (mut world, begun) = before(seed);
            world.kill_there(point, begun);
            world.run_until("the kill", |world| !world.kill_is_due());
            world.later(Duration::from_millis(30), |world| world.boot(0));
            world.quiet();
            assert_eq!(world.end(), expected, "rule 18: killed at {point:?} of {outputs} outputs");
        });
    }
}

#[test]
fn an_event_is_acknowledged_only_after_what_it_told_is_stored_wherever_the_scheduler_is_killed() {
    let mut kills = 0;
    for seed in 74..94 {
        for output in (1..200).step_by(9) {
            let (mut world, legs) = at_rest(seed, 2);
            world.check_acknowledged = true;
            // A slow store: what a pull told is on its way to it when the events come that tell the same.
            world.options.store_delay = Duration::from_millis(60);
            world.crash(0);
            world.run_for(Duration::from_millis(20));
            // More than the session lets through at once: some events come after the pull that told the same.
            for _ in 0..60 {
                world.live_on(SERVER, Some(&legs), &Kind::ALL);
            }
            world.kill_after(output);
            world.boot(0);
            for _ in 0..40 {
                world.live_on(SERVER, Some(&legs), &Kind::ALL);
                world.run_for(Duration::from_millis(15));
            }
            if world.process().is_none() {
                kills += 1;
                world.boot(0);
            }
            world.nodes[0].interrupt = None;
            world.quiet();
        }
    }
    assert!(kills > 100, "the kills hit: {kills}");
}

impl World {
    /// What an event told, when its server sends it.
    pub(super) fn note_told(&mut self, server: ServerId, packet: &Packet) {
        if let Message::Event(event) = &packet.message {
            let boot = self.servers[&server].core.boot();
            let records = event.changes.iter().map(|change| (change.key(), change.revision)).collect();
            let told = Told { boot, leg: event.leg, handle: event.handle, records };
            self.told.insert((server, event.number), told);
        }
    }

    /// SPEC E-3: everything that events up to `number` told of legs of this term is stored. Of one that is to be pulled whole
    /// nothing is held to be stored, and nothing can be lost with an event.
    pub(super) fn check_told(&mut self, server: ServerId, known: Option<BootId>, term: Option<Token>, number: u64) {
        let boot = self.servers[&server].core.boot();
        if known != Some(boot) {
            return;
        }
        let later = self.told.split_off(&(server, number + 1));
        let own = self.told.split_off(&(server, 0));
        self.told.extend(later);
        for ((_, number), told) in own {
            let Some(kept) = self.store.legs.get(&told.leg) else { continue };
            let row = &kept.row;
            let is_it = told.boot == boot && (row.boot, row.handle) == (Some(boot), Some(told.handle));
            let ours = row.state == StoredState::InMeeting && Some(row.epoch) == term.map(|token| token.epoch);
            let whole = row.mark == Mark::default() || row.quarantine.is_some();
            let stored = |(key, at): &(RecordKey, u64)| row.mark.revision >= *at || kept.committed(key) >= Some(*at);
            assert!(
                whole || !is_it || !ours || told.records.iter().all(stored),
                "SPEC E-3: event {number} of server {server} is acknowledged, which told {} {:?}; stored is {row:?}",
                told.leg,
                told.records
            );
        }
    }
}

#[test]
fn rule_14_a_round_counts_what_it_read_back_and_what_it_compared() {
    let (mut world, legs) = at_rest(seed(95), 3);
    world.crash(0);
    world.run_for(Duration::from_millis(20));
    world.live_on(SERVER, Some(&legs[..2]), &Kind::ALL);
    // Their events are lost, so that their content is pulled.
    world.at_server(SERVER, |core, _| core.overflow_events());
    world.later(Duration::from_millis(1), |world| world.boot(0));
    world.quiet();
    let truth = world.truth(SERVER);
    let pulled = truth.legs.iter().filter(|leg| leg.leg != legs[2]);
    let mut lacking = Vec::new();
    let (mut terminals, mut sums) = (0, [0; 3]);
    for leg in pulled {
        for record in &leg.records {
            let remeet_protocol::record::Record::Terminal(row) = &record.record else { continue };
            terminals += 1;
            let has = [row.business.is_some(), row.decode.is_some(), row.extra_version.is_some()];
            sums.iter_mut().zip(has).for_each(|(sum, has)| *sum += u64::from(has));
            if has.contains(&false) {
                lacking.push(format!("{} terminal {}:", leg.leg, row.number));
            }
        }
    }
    let report = world.report(Trigger::Restart);
    assert_eq!((report.contents, report.informed, report.read_back), (3, 3, 2), "{report:?}");
    assert_eq!((report.terminals, report.known), (terminals, sums));
    assert_eq!(report.missing_total, lacking.len() as u64);
    let mut named = report.missing.clone();
    named.sort();
    lacking.sort();
    let fits =
        named.len() == lacking.len() && named.iter().zip(&lacking).all(|(name, of)| name.starts_with(of.as_str()));
    assert!(fits, "{named:?}\n{lacking:?}");
}
