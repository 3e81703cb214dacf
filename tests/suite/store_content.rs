//! What stores promise about the content of legs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{
    Fixture, Kind, accepted, content, entry, info, leg_id, mark_of, present, removed, seeded, takeover, terminal,
    window,
};
use rand::Rng;
use remeet::store::{ContentWrite, Outcome, Unit, Write};
use remeet_protocol::record::{Mark, Record, RecordKey, RecordState};
use remeet_protocol::wire::Text;
use remeet_protocol::{Change, DomainId, LegId};
use std::collections::BTreeMap;

const APPLIED: Outcome = Outcome::Applied { version: 0 };

fn of_terminal(number: &str) -> RecordKey {
    RecordKey::Terminal(Text::cut(number))
}

pub(crate) async fn records_of_every_kind_come_back_as_they_were(f: &Fixture) {
    let leg = f.leg(1).await;
    let Record::Terminal(mut odd) = terminal("2", "Odd") else { panic!() };
    odd.left_because = 200.into();
    odd.joined_at_ms = u64::MAX;
    odd.business.as_mut().unwrap().state = 99.into();
    odd.business.as_mut().unwrap().since_ms = u64::MAX;
    odd.extra_version = Some(u32::MAX);
    let changes = vec![
        present(1, info("Weekly")),
        present(2, terminal("1", "Anna")),
        present(3, Record::Terminal(odd)),
        present(4, window("1", 255, u32::MAX)),
        present(5, entry("1", "captions", &[0, 255, 1])),
        present(6, entry("1", "", &[])),
    ];
    let mark = mark_of(6, &changes);
    assert_eq!(f.one(content(leg, changes.clone(), Some(mark), false)).await, APPLIED);
    let (stored, mut back) = f.content(leg).await;
    back.sort_by_key(|change| change.revision);
    assert_eq!(back, changes);
    assert_eq!(stored, mark);
    assert_eq!(mark_of(6, &back), mark, "the digest of the stored rows is that of the sent ones");
    let domain = |table: &str| format!("SELECT domain FROM {table} LIMIT 1");
    for table in ["legs", "recovery_keys", "meeting_info", "terminals", "windows", "entries"] {
        assert_eq!(f.number(&domain(table)).await, 7, "{table}");
    }
}

/// A database that fails over may lose what it had stored last: what follows on that is stored, and no mark covers it.
pub(crate) async fn a_mark_moves_only_from_the_mark_that_its_changes_follow_on(f: &Fixture) {
    let leg = f.leg(1).await;
    let at = |revision| Mark { revision, ..Mark::default() };
    let step = |base, revision| {
        let changes = vec![present(revision, entry("1", &format!("k{revision}"), b"v"))];
        let Write::Content(write) = content(leg, changes, Some(at(revision)), false) else { panic!() };
        Unit::one(Write::Content(ContentWrite { base, ..write }))
    };
    assert_eq!(f.write(vec![step(0, 3)]).await, [APPLIED]);
    // From 4 to 6 is not stored. A batch goes on from there, and another from further on.
    assert_eq!(f.write(vec![step(6, 7), step(7, 8)]).await, [APPLIED, APPLIED]);
    let (mark, changes) = f.content(leg).await;
    assert_eq!((mark, changes.len()), (at(3), 3));
    // Marks that do not follow on each other, in one batch: each stands for itself.
    assert_eq!(f.write(vec![step(5, 9), step(2, 4), step(4, 5)]).await, [APPLIED, APPLIED, APPLIED]);
    assert_eq!(f.content(leg).await.0, at(5));
    // Everything is pulled: that follows on nothing.
    let (_, whole) = f.content(leg).await;
    assert_eq!(f.one(content(leg, whole, Some(at(10)), true)).await, APPLIED);
    assert_eq!(f.content(leg).await.0, at(10));
}

pub(crate) async fn every_record_has_its_own_legs_domain(f: &Fixture) {
    let legs = [(f.leg(1).await, 7), (f.leg(2).await, 8)];
    let units = legs.map(|(leg, domain)| {
        let changes = vec![
            present(1, info("x")),
            present(2, terminal("1", "a")),
            present(3, window("1", 1, 0)),
            present(4, entry("1", "k", b"v")),
        ];
        let domain = DomainId(domain);
        Unit::one(Write::Content(ContentWrite { leg, domain, changes, base: 0, mark: None, full: false }))
    });
    assert_eq!(f.write(units.to_vec()).await, [APPLIED, APPLIED]);
    for table in ["meeting_info", "terminals", "windows", "entries"] {
        for (leg, domain) in legs {
            let stored = format!("SELECT domain FROM {table} WHERE meeting = '{}'", leg.meeting);
            assert_eq!(f.number(&stored).await, i64::from(domain), "{table}");
        }
    }
}

pub(crate) async fn rule_13_a_record_is_written_over_a_lower_revision_only(f: &Fixture) {
    let leg = f.leg(1).await;
    f.one(content(leg, vec![present(5, terminal("1", "five"))], None, false)).await;
    for revision in [4, 5] {
        assert_eq!(f.one(content(leg, vec![present(revision, terminal("1", "late"))], None, false)).await, APPLIED);
        assert_eq!(f.content(leg).await.1, [present(5, terminal("1", "five"))]);
    }
    f.one(content(leg, vec![present(6, terminal("1", "six"))], None, false)).await;
    assert_eq!(f.content(leg).await.1, [present(6, terminal("1", "six"))]);
}

pub(crate) async fn rule_13_over_an_equal_revision_only_in_a_full_pull(f: &Fixture) {
    let leg = f.leg(1).await;
    let wrong = [present(5, terminal("1", "wrong")), present(9, window("1", 1, 9))];
    f.one(content(leg, wrong.to_vec(), Some(mark_of(9, &wrong)), false)).await;
    let right = [present(5, terminal("1", "right")), present(8, window("1", 1, 8))];
    let mark = mark_of(9, &right);
    f.one(content(leg, right.to_vec(), Some(mark), true)).await;
    let (stored, changes) = f.content(leg).await;
    assert_eq!(changes, [present(5, terminal("1", "right")), present(9, window("1", 1, 9))]);
    assert_eq!(stored, mark, "a full pull corrects the mark at an equal revision");
}

pub(crate) async fn removals_remove_lower_revisions_only(f: &Fixture) {
    let leg = f.leg(1).await;
    let records =
        [info("x"), terminal("1", "a"), window("1", 1, 0), entry("1", "k", b"v")].map(|record| present(5, record));
    f.one(content(leg, records.to_vec(), None, false)).await;
    let keys = || records.iter().map(Change::key);
    for revision in [4, 5] {
        f.one(content(leg, keys().map(|key| removed(revision, key)).collect(), None, false)).await;
        assert_eq!(f.content(leg).await.1.len(), 4, "revision {revision}");
    }
    f.one(content(leg, keys().map(|key| removed(6, key)).collect(), None, false)).await;
    assert!(f.content(leg).await.1.is_empty());
    f.one(content(leg, records.to_vec(), None, false)).await;
    f.one(content(leg, keys().map(|key| removed(5, key)).collect(), None, true)).await;
    assert!(f.content(leg).await.1.is_empty(), "in a full pull an equal revision is removed");
}

pub(crate) async fn a_full_pull_removes_what_it_lacks_up_to_its_mark(f: &Fixture) {
    let (leg, other) = (f.leg(1).await, f.leg(2).await);
    let before = vec![
        present(1, info("x")),
        present(2, terminal("1", "a")),
        present(3, terminal("2", "gone")),
        present(4, window("2", 1, 0)),
        present(5, window("1", 1, 0)),
        present(6, entry("2", "k", b"v")),
        present(20, terminal("3", "newer than the pull")),
    ];
    f.one(content(leg, before.clone(), None, false)).await;
    f.one(content(other, before, None, false)).await;
    let pulled = vec![present(1, info("x")), present(2, terminal("1", "a")), present(5, window("1", 1, 0))];
    // Pages before the last conclude nothing from what is absent.
    f.one(content(leg, pulled.clone(), None, true)).await;
    assert_eq!(f.content(leg).await.1.len(), 7);
    f.one(content(leg, pulled.clone(), Some(mark_of(10, &pulled)), true)).await;
    let mut expected = pulled;
    expected.push(present(20, terminal("3", "newer than the pull")));
    expected.sort_by_key(Change::key);
    assert_eq!(f.content(leg).await.1, expected);
    assert_eq!(f.content(other).await.1.len(), 7, "another leg is not touched");
    // An empty leg.
    f.one(content(leg, vec![], Some(mark_of(30, &[])), true)).await;
    assert!(f.content(leg).await.1.is_empty());
}

pub(crate) async fn a_mark_never_falls_and_sets_all_four_groups(f: &Fixture) {
    let leg = f.leg(1).await;
    let mark = |revision, count| Mark { revision, count, ..Mark::default() };
    f.one(content(leg, vec![], Some(mark(5, 1)), false)).await;
    f.one(content(leg, vec![], Some(mark(4, 9)), false)).await;
    f.one(content(leg, vec![], Some(mark(4, 9)), true)).await;
    f.one(content(leg, vec![], Some(mark(5, 9)), false)).await;
    assert_eq!(f.content(leg).await.0, mark(5, 1));
    f.one(content(leg, vec![], Some(mark(6, 2)), false)).await;
    assert_eq!(f.row(leg).await.mark, mark(6, 2));
    for group in ["info", "business", "decode", "extra"] {
        assert_eq!(f.number(&format!("SELECT {group}_mark FROM legs")).await, 6);
    }
    assert_eq!(f.row(leg).await.version, 1, "a mark leaves the version");
}

pub(crate) async fn a_content_reset_lets_everything_be_replaced(f: &Fixture) {
    let leg = f.leg(1).await;
    let old = vec![
        present(100, info("old")),
        present(101, terminal("1", "old")),
        present(102, window("1", 1, 0)),
        present(103, entry("1", "k", b"old")),
        present(104, terminal("2", "gone")),
    ];
    f.one(content(leg, old.clone(), Some(mark_of(104, &old)), false)).await;
    assert_eq!(f.one(takeover(leg, 1, accepted(f.token, 2, true))).await, Outcome::Applied { version: 2 });
    let (mark, changes) = f.content(leg).await;
    assert_eq!(mark, Mark::default());
    assert_eq!(f.number("SELECT info_mark + business_mark + decode_mark + extra_mark FROM legs").await, 0);
    assert_eq!(changes.len(), 5);
    assert!(changes.iter().all(|change| change.revision == 0));
    // The new life's revisions are low; its full pull replaces and removes.
    let new = vec![present(1, info("new")), present(2, terminal("1", "new")), present(3, entry("1", "k", b"old"))];
    f.one(content(leg, new.clone(), Some(mark_of(3, &new)), true)).await;
    let (mark, mut changes) = f.content(leg).await;
    changes.sort_by_key(|change| change.revision);
    assert_eq!(changes, new);
    assert_eq!(mark, mark_of(3, &new));
}

/// What the database says of every row's physical place (Postgres), or of the file's changes (SQLite).
async fn fingerprint(f: &Fixture) -> String {
    let rows = |table: &str| format!("(SELECT string_agg(ctid::text || xmin::text, ',' ORDER BY ctid) FROM {table})");
    match f.kind {
        // No write transaction changes a page: the write-ahead log stays as it is.
        Kind::Sqlite => {
            let path = f.url.strip_prefix("sqlite:").unwrap();
            let wal = std::fs::read(format!("{path}-wal")).unwrap();
            format!("{} {:?}", wal.len(), wal.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte)))
        }
        Kind::Postgres => {
            let tables = ["legs", "recovery_keys", "meeting_info", "terminals", "windows", "entries", "intents"];
            f.text(&format!("SELECT concat_ws(';', {})", tables.map(rows).join(", "))).await
        }
    }
}

pub(crate) async fn rows_that_agree_are_not_written(f: &Fixture) {
    let leg = f.leg(1).await;
    let changes = vec![
        present(1, info("x")),
        present(2, terminal("1", "a")),
        present(3, window("1", 1, 0)),
        present(4, entry("1", "k", b"v")),
    ];
    let mark = mark_of(4, &changes);
    f.one(content(leg, changes.clone(), Some(mark), false)).await;
    f.one(Write::Quarantine(leg, Some("why".to_owned()))).await;
    f.one(Write::First(leg, true)).await;
    f.one(Write::Intent(Box::new(crate::store_intents::intent(leg, 1, None)))).await;
    f.one(Write::IntentDone(crate::store_intents::done(leg, 1))).await;
    let before = fingerprint(f).await;
    let same = vec![
        Unit::one(content(leg, changes.clone(), Some(mark), false)),
        Unit::one(content(leg, changes, Some(mark), true)),
        Unit::one(Write::Quarantine(leg, Some("why".to_owned()))),
        Unit::one(Write::First(leg, true)),
        Unit::one(Write::IntentDone(crate::store_intents::done(leg, 1))),
        Unit::one(Write::Key(Box::new(crate::store_fixture::new_leg(1, remeet::model::StoredState::Created).key))),
    ];
    assert_eq!(f.write(same).await, [APPLIED; 6]);
    assert_eq!(fingerprint(f).await, before);
}

pub(crate) async fn unknown_states_are_explicit(f: &Fixture) {
    let leg = f.leg(1).await;
    let Record::Terminal(mut row) = terminal("1", "a") else { panic!() };
    (row.business, row.decode, row.extra_version) = (None, None, None);
    let unknown = Record::Terminal(row);
    f.one(content(leg, vec![present(1, terminal("1", "a"))], None, false)).await;
    f.one(content(leg, vec![present(2, unknown.clone())], None, false)).await;
    assert_eq!(f.content(leg).await.1, [present(2, unknown)]);
    let nulls = "SELECT count(*) FROM terminals WHERE business_state IS NULL AND business_since_ms IS NULL \
                 AND decode_output IS NULL AND extra_version IS NULL";
    assert_eq!(f.number(nulls).await, 1);
}

pub(crate) async fn texts_with_nul_and_markers_come_back_exactly(f: &Fixture) {
    let leg = f.leg(1).await;
    let odd = "a\0b\u{E000}0\u{E000}1é\u{10FFFF}";
    let changes = vec![
        present(1, info(odd)),
        present(2, terminal(odd, odd)),
        present(3, window(odd, 1, 0)),
        present(4, entry(odd, odd, b"\0")),
    ];
    f.one(content(leg, changes.clone(), None, false)).await;
    let (_, mut back) = f.content(leg).await;
    back.sort_by_key(|change| change.revision);
    assert_eq!(back, changes);
    // Their keys are found again, too.
    f.one(content(leg, changes[1..].iter().map(|change| removed(9, change.key())).collect(), None, false)).await;
    assert_eq!(f.content(leg).await.1.len(), 1);
}

/// The promise of content writes, one after the other, in memory.
#[derive(Default)]
struct Model {
    records: BTreeMap<RecordKey, Change>,
    mark: Mark,
}

impl Model {
    fn write(&mut self, changes: &[Change], mark: Option<Mark>, full: bool) {
        for change in changes {
            let key = change.key();
            let stands = self.records.get(&key).map(|stands| stands.revision);
            if stands.is_none_or(|stands| stands < change.revision || full && stands == change.revision) {
                match change.state {
                    RecordState::Present(_) => drop(self.records.insert(key, change.clone())),
                    RecordState::Removed(_) => drop(self.records.remove(&key)),
                }
            }
        }
        let Some(mark) = mark else { return };
        if full {
            let named: Vec<RecordKey> = changes.iter().map(Change::key).collect();
            self.records.retain(|key, change| change.revision > mark.revision || named.contains(key));
        }
        if self.mark.revision < mark.revision || full && self.mark.revision == mark.revision {
            self.mark = mark;
        }
    }
}

pub(crate) async fn several_content_writes_of_one_leg_in_one_batch_end_as_one_after_the_other(f: &Fixture) {
    let mut random = seeded();
    for n in 0..25 {
        let leg = f.leg(n).await;
        let mut model = Model::default();
        for _ in 0..3 {
            let mut units = Vec::new();
            for _ in 0..random.random_range(1..6) {
                let mut changes: Vec<Change> = Vec::new();
                for number in ["1", "2", "3"] {
                    let revision = random.random_range(1..12);
                    match random.random_range(0..4) {
                        0 => changes.push(removed(revision, of_terminal(number))),
                        1 => changes.push(present(revision, window(number, 1, random.random_range(0..3)))),
                        2 => changes.push(present(revision, terminal(number, ["x", "y"][random.random_range(0..2)]))),
                        _ => {}
                    }
                }
                let full = random.random_range(0..5) == 0;
                let mark = random.random_bool(0.5).then(|| {
                    let (revision, count) = (random.random_range(1..12), random.random_range(0..3));
                    Mark { revision, count, ..Mark::default() }
                });
                model.write(&changes, mark, full);
                units.push(Unit::one(content(leg, changes, mark, full)));
            }
            let count = units.len();
            assert_eq!(f.write(units).await, vec![APPLIED; count]);
            let (mark, changes) = f.content(leg).await;
            assert_eq!(changes, model.records.values().cloned().collect::<Vec<_>>());
            assert_eq!(mark, model.mark);
        }
    }
}

pub(crate) async fn content_of_an_unknown_leg_is_absent(f: &Fixture) {
    let leg = f.leg(1).await;
    let asked: [LegId; 3] = [leg_id(9), leg, leg];
    let contents = f.store.contents(&asked).await.unwrap();
    assert_eq!(contents.len(), 1);
    assert_eq!(contents[0].leg, leg);
    assert!(f.store.contents(&[]).await.unwrap().is_empty());
}

pub(crate) async fn an_unreadable_record_makes_the_mark_zero(f: &Fixture) {
    let (leg, other) = (f.leg(1).await, f.leg(2).await);
    let changes = vec![present(1, terminal("1", "a")), present(2, terminal("2", "b"))];
    for leg in [leg, other] {
        f.one(content(leg, changes.clone(), Some(mark_of(2, &changes)), false)).await;
    }
    let bad = format!("UPDATE terminals SET left_because = 999 WHERE number = '2' AND meeting = '{}'", leg.meeting);
    f.sql(&bad).await;
    let (mark, left) = f.content(leg).await;
    assert_eq!(mark, Mark::default());
    assert_eq!(left, changes[..1]);
    assert_eq!(f.content(other).await.0, mark_of(2, &changes));
    // A full pull repairs it.
    f.one(content(leg, changes.clone(), Some(mark_of(2, &changes)), true)).await;
    assert_eq!(f.content(leg).await, (mark_of(2, &changes), changes));
}

pub(crate) async fn mark_and_records_are_of_one_snapshot_while_writes_go_on(f: &Fixture) {
    let leg = f.leg(1).await;
    let at = |revision: u64| {
        let errors = u32::try_from(revision).unwrap();
        let changes =
            vec![present(revision, window("1", 1, errors)), present(revision, terminal("1", &revision.to_string()))];
        let mark = mark_of(revision, &changes);
        Unit::one(content(leg, changes, Some(mark), false))
    };
    let writer = async {
        for revision in 1..60 {
            f.write(vec![at(revision)]).await;
        }
    };
    let reader = async {
        let mut seen = 0;
        while seen < 59 {
            let (mark, changes) = f.content(leg).await;
            assert_eq!(mark, mark_of(mark.revision, &changes));
            assert!(mark.revision >= seen);
            seen = mark.revision;
        }
    };
    tokio::join!(writer, reader);
}
