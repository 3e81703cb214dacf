//! Legs, keys and records for the cache's tests, all from one seed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use remeet::model::RecoveryKey;
use remeet::store::{CacheWrite, CachedHead};
use remeet_protocol::message::MeetingState;
use remeet_protocol::record::{
    Business, BusinessState, Decode, DisplayMode, EntryKey, EntryRow, LeaveReason, LegRow, Mark, MediaCodec, Number,
    RecordState, Resolution, TerminalRow, WindowRow,
};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{BootId, Change, DomainId, Epoch, Handle, LegId, MeetingId, Record, RecordKey, Secret, ServerId};

pub(crate) const DOMAIN: DomainId = DomainId(7);

/// The random source of a test; it says how to get the same again.
pub(crate) fn random(test: &str) -> ChaCha8Rng {
    let seed = std::env::var("REMEET_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    println!("{test}: REMEET_TEST_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// The leg number `n` of a test.
pub(crate) fn leg(n: u32) -> LegId {
    LegId { meeting: MeetingId::from_bytes(u128::from(n).to_be_bytes()), leg: 0 }
}

pub(crate) fn name(n: u32) -> (DomainId, LegId) {
    (DOMAIN, leg(n))
}

pub(crate) fn boot(n: u8) -> BootId {
    BootId::from_bytes([n; 16])
}

/// A key whose secret depends on leg and generation.
pub(crate) fn key(n: u32, generation: u64) -> RecoveryKey {
    RecoveryKey {
        leg: leg(n),
        domain: DOMAIN,
        server: ServerId(3),
        secret: Secret::new((u128::from(n) << 64 | u128::from(generation)).to_be_bytes()),
        generation,
        number: number("8801"),
        title: text("Morning round: \"west\"\n"),
        creator: number("1001"),
        creator_name: text("Ánna"),
        made_at_ms: 1_700_000_000_000,
    }
}

pub(crate) fn head(n: u32, epoch: u64) -> CachedHead {
    CachedHead {
        leg: leg(n),
        domain: DOMAIN,
        server: ServerId(3),
        boot: boot(1),
        handle: Handle(40 + u64::from(n)),
        state: MeetingState::InMeeting,
        epoch: Epoch(epoch),
    }
}

/// The whole content at `revision`.
pub(crate) fn whole(n: u32, epoch: u64, revision: u64, records: &[Record]) -> CacheWrite {
    let changes = records.iter().map(|record| present(revision, record)).collect();
    CacheWrite { head: head(n, epoch), base: None, mark: mark(revision, records), changes }
}

/// From the content `before` at `base` to `after` at `revision`.
pub(crate) fn delta(n: u32, epoch: u64, base: u64, before: &[Record], revision: u64, after: &[Record]) -> CacheWrite {
    let removed = before.iter().map(Record::key).filter(|key| after.iter().all(|record| record.key() != *key));
    let mut changes: Vec<Change> = removed.map(|key| Change { revision, state: RecordState::Removed(key) }).collect();
    changes.extend(after.iter().filter(|record| !before.contains(record)).map(|record| present(revision, record)));
    CacheWrite { head: head(n, epoch), base: Some(base), mark: mark(revision, after), changes }
}

pub(crate) fn present(revision: u64, record: &Record) -> Change {
    Change { revision, state: RecordState::Present(record.clone()) }
}

pub(crate) fn mark(revision: u64, records: &[Record]) -> Mark {
    let mut mark = Mark { revision, ..Mark::default() };
    records.iter().for_each(|record| mark.count(record, true));
    mark
}

/// A leg of `terminals` terminals, each with a window and `entries` entries. Every field is drawn, also
/// values that this version does not know, and texts that a careless layout would confuse.
pub(crate) fn content(random: &mut impl Rng, terminals: usize, entries: usize) -> Vec<Record> {
    let mut records = vec![Record::Leg(LegRow {
        number: number("8801"),
        title: text("A: b % c \u{1F3A5}"),
        creator: number("1001"),
        creator_name: text("Ánna"),
        chair: number(&random.random_range(0..9_u32).to_string()),
        first_speaker: Number::default(),
        second_speaker: number("1:2"),
        started_at_ms: random.random(),
    })];
    for i in 0..terminals {
        // Colons and percent signs in some: the next part of a field's name must not shift.
        let terminal = number(&format!("{}{i}", ["", "a:", "a%3A", "e:"][i % 4]));
        records.push(Record::Terminal(terminal_row(random, &terminal)));
        records.push(Record::Window(WindowRow {
            terminal: terminal.clone(),
            window: random.random(),
            source: number("1:1"),
            channel: random.random(),
            video: random.random(),
            audio: random.random(),
            codec: MediaCodec::from(random.random::<u8>()),
            errors: random.random(),
        }));
        for e in 0..entries {
            let value: Vec<u8> = (0..random.random_range(0..24)).map(|_| random.random()).collect();
            records.push(Record::Entry(EntryRow {
                terminal: terminal.clone(),
                key: EntryKey::new(format!("b:{e}%")).unwrap(),
                value: Blob::new(value).unwrap(),
            }));
        }
    }
    records.sort_by_key(Record::key);
    records
}

/// The same records with a few changed, removed and added.
pub(crate) fn changed(random: &mut impl Rng, records: &[Record]) -> Vec<Record> {
    let mut after = Vec::new();
    for record in records {
        match record {
            Record::Terminal(row) if random.random_bool(0.3) => {
                after.push(Record::Terminal(terminal_row(random, &row.number)));
            }
            Record::Window(_) | Record::Entry(_) if random.random_bool(0.2) => {}
            _ => after.push(record.clone()),
        }
    }
    let new = number(&format!("n{}", random.random::<u32>()));
    after.push(Record::Terminal(terminal_row(random, &new)));
    after.sort_by_key(Record::key);
    after
}

fn terminal_row(random: &mut impl Rng, terminal: &Number) -> TerminalRow {
    let known = random.random_bool(0.7);
    TerminalRow {
        number: terminal.clone(),
        home_domain: DOMAIN,
        name: text("Hall \u{1}\"x\""),
        online: random.random(),
        in_meeting: random.random(),
        joined_at_ms: random.random(),
        left_at_ms: u64::MAX,
        left_because: LeaveReason::from(random.random::<u8>()),
        business: known.then(|| Business {
            state: BusinessState::from(random.random::<u8>()),
            since_ms: random.random(),
            sends_main: random.random(),
            sends_auxiliary: random.random(),
            resolution: Resolution::from(random.random::<u8>()),
        }),
        decode: known.then(|| Decode {
            display_mode: DisplayMode::from(random.random::<u8>()),
            output: number("1"),
            codec: MediaCodec::H265,
        }),
        extra_version: known.then(|| random.random()),
    }
}

pub(crate) fn keys_of(records: &[Record]) -> Vec<RecordKey> {
    records.iter().map(Record::key).collect()
}

fn number(number: &str) -> Number {
    Number::new(number).unwrap()
}

fn text<const MAX: usize>(text: &str) -> Text<MAX> {
    Text::new(text).unwrap()
}
