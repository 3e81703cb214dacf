//! Every kind of difference is found, in both directions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::super::facts::{CachedKey, CachedLeg};
use super::*;
use crate::simulator::RecordDump;
use remeet_protocol::record::{EntryRow, LegRow, Mark, Number, TerminalRow, WindowRow};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{BootId, Handle, MeetingId, Token};

const DOMAIN: DomainId = DomainId(1);

fn leg_id(number: u8) -> LegId {
    LegId { meeting: MeetingId::from_bytes([number; 16]), leg: 0 }
}

fn token() -> Token {
    Token { epoch: Epoch(2), holder: Holder::from_bytes([9; 16]) }
}

fn number(text: &str) -> Number {
    Text::cut(text)
}

fn records() -> Vec<RecordDump> {
    let terminal = TerminalRow {
        number: number("1001"),
        home_domain: DOMAIN,
        name: Text::cut("Hall"),
        online: true,
        in_meeting: true,
        joined_at_ms: 5,
        left_at_ms: 0,
        left_because: 0.into(),
        business: None,
        decode: None,
        extra_version: Some(1),
    };
    let window = WindowRow {
        terminal: number("1001"),
        window: 0,
        source: number(""),
        channel: 0,
        video: true,
        audio: true,
        codec: 1.into(),
        errors: 0,
    };
    let entry = EntryRow { terminal: number("1001"), key: Text::cut("seat"), value: Blob::new(vec![1, 255]).unwrap() };
    let row = LegRow {
        number: number("700"),
        title: Text::cut("Title"),
        creator: number("500"),
        creator_name: Text::cut("Creator"),
        chair: number("1001"),
        first_speaker: number(""),
        second_speaker: number(""),
        started_at_ms: 1_000,
    };
    [Record::Leg(row), Record::Terminal(terminal), Record::Window(window), Record::Entry(entry)]
        .into_iter()
        .zip(1..)
        .map(|(record, revision)| RecordDump { revision, record })
        .collect()
}

/// A server with a live leg (1) and an orphan (3); leg 2 has ended.
struct World {
    truth: Vec<Dump>,
    database: Database,
    cached: Cached,
    expected: Expected,
}

fn live(leg: LegId, handle: u64) -> LegDump {
    let records = records();
    let mut mark = Mark { revision: 4, ..Mark::default() };
    records.iter().for_each(|held| mark.count(&held.record, true));
    LegDump {
        handle: Handle(handle),
        leg,
        state: LegState::Live,
        cause: EndCause::None,
        token: token(),
        generation: 1,
        intent: 3,
        mark,
        terminals: 1,
        records,
    }
}

fn world() -> World {
    let (leg, ended, orphan) = (leg_id(1), leg_id(2), leg_id(3));
    let carried = live(leg, 7);
    let boot = BootId::from_bytes([4; 16]);
    let held: Records = carried
        .records
        .iter()
        .map(|held| (held.record.key(), Held { revision: held.revision, record: held.record.clone() }))
        .collect();
    let row = ControlRow {
        domain: DOMAIN,
        server: ServerId(1),
        state: "in-meeting".to_owned(),
        cause: EndCause::None,
        epoch: Epoch(2),
        boot: Some(boot),
        handle: Some(Handle(7)),
        mark: carried.mark,
        group_marks: [4; 4],
        intent: 3,
        recover_first: false,
        quarantine: None,
    };
    let key = KeyRow {
        domain: DOMAIN,
        server: ServerId(1),
        generation: 1,
        number: "700".to_owned(),
        title: "Title".to_owned(),
        creator: "500".to_owned(),
        creator_name: "Creator".to_owned(),
        made_at_ms: 900,
        secret_sha256: "ab".to_owned(),
    };
    let ended_row = ControlRow { state: "ended".to_owned(), cause: EndCause::ByServer, ..row.clone() };
    let head = CachedHead {
        domain: DOMAIN,
        server: ServerId(1),
        boot,
        handle: Handle(7),
        state: MeetingState::InMeeting,
        mark: carried.mark,
    };
    let cached_key =
        CachedKey { generation: 1, epoch: Epoch(1), secret_sha256: "ab".to_owned(), whole: Some(key.clone()) };
    let foreign = LegDump { token: Token::default(), intent: 0, ..live(orphan, 9) };
    World {
        truth: vec![Dump {
            server: ServerId(1),
            domain: DOMAIN,
            name: "one".to_owned(),
            boot,
            table_revision: 12,
            highest_token: Some(token()),
            events_waiting: 0,
            legs: vec![carried, foreign],
        }],
        database: Database {
            term: Some((Epoch(2), token().holder)),
            legs: BTreeMap::from([(leg, row), (ended, ended_row)]),
            table_revisions: BTreeMap::from([(leg, 11), (ended, 11)]),
            keys: BTreeMap::from([(leg, key.clone()), (ended, key)]),
            records: BTreeMap::from([(leg, held.clone())]),
            record_domains: BTreeMap::from([(leg, BTreeSet::from([1]))]),
            formats: BTreeSet::from([1]),
            open_intents: Vec::new(),
            commands_twice: Vec::new(),
            meetings: BTreeMap::from([(leg.meeting, DOMAIN), (ended.meeting, DOMAIN)]),
        },
        cached: Cached {
            legs: BTreeMap::from([(leg, CachedLeg { head, epoch: Epoch(2), records: held })]),
            keys: BTreeMap::from([(leg, cached_key)]),
        },
        expected: Expected {
            epoch: Epoch(2),
            live: BTreeSet::from([leg]),
            ended: BTreeMap::from([(ended, EndCause::ByServer)]),
            orphans: BTreeSet::from([orphan]),
        },
    }
}

fn found(world: &World) -> Findings {
    compare(&world.truth, &world.database, &world.cached, &world.expected)
}

/// Alters the world and expects differences that name all of `words`, one of them at least.
fn finds(words: &[&str], alter: impl FnOnce(&mut World)) {
    let mut world = world();
    alter(&mut world);
    let findings = found(&world);
    let texts: Vec<String> = findings.shown.iter().map(ToString::to_string).collect();
    let named = texts.iter().any(|text| words.iter().all(|word| text.contains(word)));
    assert!(findings.total > 0 && named, "nothing names {words:?}: {texts:?}");
}

/// A field, and how to alter it.
type Alteration<T> = (&'static str, fn(&mut T));

fn terminal_key() -> RecordKey {
    RecordKey::Terminal(number("1001"))
}

#[test]
fn without_a_difference_nothing_is_found_and_everything_is_counted() {
    let findings = found(&world());
    assert_eq!(findings.total, 0, "{:?}", findings.shown);
    assert_eq!((findings.legs[&ServerId(1)], findings.records[&ServerId(1)]), (1, 4));
}

#[test]
fn every_field_of_the_control_row_counts() {
    let alterations: [Alteration<ControlRow>; 13] = [
        ("domain", |row| row.domain = DomainId(2)),
        ("server", |row| row.server = ServerId(2)),
        ("state", |row| row.state = "ending".to_owned()),
        ("cause", |row| row.cause = EndCause::Lost),
        ("epoch", |row| row.epoch = Epoch(1)),
        ("boot", |row| row.boot = None),
        ("handle", |row| row.handle = Some(Handle(8))),
        ("mark.revision", |row| row.mark.revision = 3),
        ("mark.count", |row| row.mark.count = 3),
        ("mark.digest", |row| row.mark.digest.0 ^= 1),
        ("group_marks", |row| row.group_marks[2] = 3),
        ("intent", |row| row.intent = 4),
        ("quarantine", |row| row.quarantine = Some("x".to_owned())),
    ];
    for (field, alter) in alterations {
        finds(&["database", "control row", field], |world| {
            alter(world.database.legs.get_mut(&leg_id(1)).unwrap());
        });
    }
}

#[test]
fn every_field_of_a_stored_key_counts() {
    let alterations: [Alteration<KeyRow>; 7] = [
        ("server", |key| key.server = ServerId(2)),
        ("generation", |key| key.generation = 2),
        ("number", |key| key.number = "701".to_owned()),
        ("title", |key| key.title.push('x')),
        ("creator", |key| key.creator.push('x')),
        ("creator_name", |key| key.creator_name.push('x')),
        ("made_at_ms", |key| key.made_at_ms = 2_000),
    ];
    for (field, alter) in alterations {
        finds(&["database", "recovery key", field], |world| {
            alter(world.database.keys.get_mut(&leg_id(1)).unwrap());
        });
    }
}

#[test]
fn a_cached_secret_of_another_key_is_found_also_without_the_rest_of_the_key() {
    finds(&["cache", "recovery key", "secret_sha256"], |world| {
        let key = world.cached.keys.get_mut(&leg_id(1)).unwrap();
        key.whole = None;
        key.secret_sha256 = "cd".to_owned();
    });
    finds(&["cache", "recovery key", "secret_sha256"], |world| {
        let key = world.cached.keys.get_mut(&leg_id(1)).unwrap();
        key.whole.as_mut().unwrap().secret_sha256 = "cd".to_owned();
    });
    finds(&["cache", "recovery key", "epoch"], |world| {
        world.cached.keys.get_mut(&leg_id(1)).unwrap().epoch = Epoch(3);
    });
}

#[test]
fn a_field_of_a_record_is_found_in_both_sinks() {
    finds(&["database", "terminal 1001", "name", "Hall", "Hull"], |world| {
        let records = world.database.records.get_mut(&leg_id(1)).unwrap();
        let Record::Terminal(row) = &mut records.get_mut(&terminal_key()).unwrap().record else { panic!("a terminal") };
        row.name = Text::cut("Hull");
    });
    finds(&["cache", "terminal 1001", "extra_version"], |world| {
        let records = &mut world.cached.legs.get_mut(&leg_id(1)).unwrap().records;
        let Record::Terminal(row) = &mut records.get_mut(&terminal_key()).unwrap().record else { panic!("a terminal") };
        row.extra_version = None;
    });
    finds(&["cache", "terminal 1001, entry seat", "value"], |world| {
        let records = &mut world.cached.legs.get_mut(&leg_id(1)).unwrap().records;
        let held = records.get_mut(&RecordKey::Entry(number("1001"), Text::cut("seat"))).unwrap();
        let Record::Entry(row) = &mut held.record else { panic!("an entry") };
        row.value = Blob::default();
    });
    finds(&["database", "window 0", "revision"], |world| {
        let records = world.database.records.get_mut(&leg_id(1)).unwrap();
        records.get_mut(&RecordKey::Window(number("1001"), 0)).unwrap().revision = 2;
    });
}

#[test]
fn a_record_that_a_sink_lacks_and_one_that_it_has_too_much_are_found() {
    finds(&["database", "terminal 1001", "found nothing"], |world| {
        world.database.records.get_mut(&leg_id(1)).unwrap().remove(&terminal_key());
    });
    finds(&["cache", "meeting information", "found nothing"], |world| {
        world.cached.legs.get_mut(&leg_id(1)).unwrap().records.remove(&RecordKey::Leg);
    });
    // The server no longer has it.
    for place in ["database", "cache"] {
        finds(&[place, "entry seat", "expected nothing"], |world| {
            let leg = &mut world.truth[0].legs[0];
            let gone = leg.records.pop().unwrap();
            leg.mark.count(&gone.record, false);
        });
    }
}

#[test]
fn a_leg_that_a_sink_lacks_is_found() {
    finds(&["database", "control row", "found nothing"], |world| {
        world.database.legs.remove(&leg_id(1));
    });
    finds(&["database", "recovery key", "found nothing"], |world| {
        world.database.keys.remove(&leg_id(1));
    });
    finds(&["cache", "status", "found nothing"], |world| {
        world.cached.legs.remove(&leg_id(1));
    });
    finds(&["cache", "recovery key", "found nothing"], |world| {
        world.cached.keys.remove(&leg_id(1));
    });
}

#[test]
fn a_leg_that_a_sink_has_and_no_server_carries_is_found() {
    let stray = leg_id(8);
    finds(&["database", "no such leg"], |world| {
        let row = world.database.legs[&leg_id(1)].clone();
        world.database.legs.insert(stray, row);
    });
    finds(&["database", "a key without a leg"], |world| {
        let key = world.database.keys[&leg_id(1)].clone();
        world.database.keys.insert(stray, key);
    });
    finds(&["database", "records without a leg"], |world| {
        world.database.records.insert(stray, Records::new());
    });
    finds(&["cache", "status", "expected nothing"], |world| {
        let leg = world.cached.legs[&leg_id(1)].clone();
        world.cached.legs.insert(stray, leg);
    });
    finds(&["cache", "recovery key", "expected nothing"], |world| {
        let key = world.cached.keys[&leg_id(1)].clone();
        world.cached.keys.insert(stray, key);
    });
}

#[test]
fn an_ended_meeting_with_a_wrong_cause_or_something_in_the_cache_is_found() {
    finds(&["database", "ended ByServer", "Commanded"], |world| {
        world.database.legs.get_mut(&leg_id(2)).unwrap().cause = EndCause::Commanded;
    });
    finds(&["database", "ended ByServer", "in-meeting"], |world| {
        world.database.legs.get_mut(&leg_id(2)).unwrap().state = "in-meeting".to_owned();
    });
    finds(&["cache", "status"], |world| {
        let leg = world.cached.legs[&leg_id(1)].clone();
        world.cached.legs.insert(leg_id(2), leg);
    });
    finds(&["cache", "recovery key"], |world| {
        let key = world.cached.keys[&leg_id(1)].clone();
        world.cached.keys.insert(leg_id(2), key);
    });
    finds(&["server", "not live"], |world| world.truth[0].legs.push(live(leg_id(2), 11)));
    finds(&["database", "not ended"], |world| {
        world.expected.ended.clear();
    });
}

#[test]
fn an_orphan_that_is_stored_or_commanded_is_found() {
    finds(&["database", "orphan", "control row"], |world| {
        let row = world.database.legs[&leg_id(1)].clone();
        world.database.legs.insert(leg_id(3), row);
    });
    finds(&["database", "orphan", "recovery key"], |world| {
        let key = world.database.keys[&leg_id(1)].clone();
        world.database.keys.insert(leg_id(3), key);
    });
    finds(&["cache", "orphan", "status"], |world| {
        let leg = world.cached.legs[&leg_id(1)].clone();
        world.cached.legs.insert(leg_id(3), leg);
    });
    finds(&["server", "orphan", "never commanded"], |world| world.truth[0].legs[1].token = token());
    finds(&["server", "no server carries it"], |world| {
        world.truth[0].legs.pop();
    });
}

#[test]
fn a_live_leg_that_no_server_carries_any_more_is_found() {
    finds(&["server", "no server carries it"], |world| {
        world.truth[0].legs.remove(0);
    });
}

#[test]
fn rule_3_a_leg_or_server_under_another_token_than_the_term_s_is_found() {
    let other = Token { holder: Holder::from_bytes([1; 16]), ..token() };
    finds(&["server", "token"], |world| world.truth[0].legs[0].token = other);
    finds(&["server", "highest token"], |world| world.truth[0].highest_token = Some(other));
    finds(&["database", "term, epoch"], |world| world.database.term = Some((Epoch(1), token().holder)));
}

#[test]
fn a_server_whose_mark_does_not_fit_its_records_is_found() {
    finds(&["server", "mark", "digest"], |world| world.truth[0].legs[0].mark.digest.0 ^= 1);
}

#[test]
fn a_leg_on_two_servers_is_found() {
    finds(&["second server"], |world| {
        let again = Dump { server: ServerId(2), ..world.truth[0].clone() };
        world.truth.push(again);
    });
}

#[test]
fn what_is_left_undone_or_written_by_another_version_is_found() {
    finds(&["database", "intent", "open"], |world| {
        world.database.open_intents.push((leg_id(1), "3 (end)".to_owned()));
    });
    finds(&["database", "client command 7", "one intent at most", "several"], |world| {
        world.database.commands_twice.push((1, 7));
    });
    finds(&["database", "format_version"], |world| {
        world.database.formats.insert(2);
    });
    finds(&["database", "table_revision"], |world| {
        world.database.table_revisions.insert(leg_id(1), 13);
    });
    finds(&["database", "domain of its records"], |world| {
        world.database.record_domains.get_mut(&leg_id(1)).unwrap().insert(2);
    });
    finds(&["database", "meeting", "domain"], |world| {
        world.database.meetings.remove(&leg_id(1).meeting);
    });
}

#[test]
fn only_the_first_differences_are_kept_and_all_are_counted() {
    let mut world = world();
    for number in 20..60 {
        let row = world.database.legs[&leg_id(1)].clone();
        world.database.legs.insert(leg_id(number), row);
        world.database.meetings.insert(leg_id(number).meeting, DOMAIN);
    }
    let findings = found(&world);
    assert_eq!((findings.total, findings.shown.len()), (40, SHOWN_MAX));
    assert_eq!(findings.by_server[&ServerId(1)], 40);
}
