//! Compares each server's truth with database and cache, in both directions.

use super::facts::{Cached, CachedHead, ControlRow, Database, Held, KeyRow, Records};
use super::fields;
use crate::simulator::{Dump, LegDump};
use remeet_protocol::message::{EndCause, LegState, MeetingState};
use remeet_protocol::{DomainId, Epoch, Holder, LegId, Record, RecordKey, ServerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What must have come of every leg, from what was played.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    /// The present term.
    pub(crate) epoch: Epoch,
    /// Live and commanded by the scheduler.
    pub(crate) live: BTreeSet<LegId>,
    /// Ended, and why.
    pub(crate) ended: BTreeMap<LegId, EndCause>,
    /// Live on a server, foreign to the scheduler.
    pub(crate) orphans: BTreeSet<LegId>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Where: `database`, `cache` or `server`.
    pub(crate) place: &'static str,
    /// What: leg and field.
    pub(crate) what: String,
    /// The value that should stand there.
    pub(crate) truth: String,
    /// The value that stands there.
    pub(crate) stored: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: expected {}, found {}", self.place, self.what, self.truth, self.stored)
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Differences in all.
    pub(crate) total: u64,
    /// The first of them, at most [`SHOWN_MAX`].
    pub(crate) shown: Vec<Difference>,
    /// Differences by server, as far as they belong to one.
    pub(crate) by_server: BTreeMap<ServerId, u64>,
    /// Legs that were compared, by server.
    pub(crate) legs: BTreeMap<ServerId, u64>,
    /// Records that were compared, by server.
    pub(crate) records: BTreeMap<ServerId, u64>,
}

/// Differences that are kept to be shown; the others are counted.
pub(crate) const SHOWN_MAX: usize = 10;

const DATABASE: &str = "database";
const CACHE: &str = "cache";
const SERVER: &str = "server";
const ABSENT: &str = "nothing";

/// Compares everything.
pub(crate) fn compare(truth: &[Dump], database: &Database, cached: &Cached, expected: &Expected) -> Findings {
    let mut comparison =
        Comparison { database, cached, expected, seen: BTreeSet::new(), server: None, findings: Findings::default() };
    for dump in truth {
        comparison.server = Some(dump.server);
        comparison.server_truth(dump);
    }
    comparison.server = None;
    comparison.term();
    comparison.expectations();
    comparison.database_beyond_truth();
    comparison.cache_beyond_truth();
    comparison.findings
}

struct Comparison<'a> {
    database: &'a Database,
    cached: &'a Cached,
    expected: &'a Expected,
    /// Legs that some server carries.
    seen: BTreeSet<LegId>,
    /// The server that differences are put down to.
    server: Option<ServerId>,
    findings: Findings,
}

impl Comparison<'_> {
    fn differ(&mut self, place: &'static str, what: String, truth: impl fmt::Display, stored: impl fmt::Display) {
        self.findings.total += 1;
        if let Some(server) = self.server {
            *self.findings.by_server.entry(server).or_default() += 1;
        }
        if self.findings.shown.len() < SHOWN_MAX {
            let (truth, stored) = (truth.to_string(), stored.to_string());
            self.findings.shown.push(Difference { place, what, truth, stored });
        }
    }

    fn same<T: Serialize + PartialEq>(&mut self, place: &'static str, what: &str, truth: &T, stored: &T) {
        for field in fields::differences(truth, stored) {
            self.differ(place, format!("{what}, {}", field.path), field.truth, field.stored);
        }
    }

    // ---- from the servers to the sinks ----

    fn server_truth(&mut self, dump: &Dump) {
        match (dump.highest_token, self.database.term) {
            (Some(token), Some(term)) if (token.epoch, token.holder) == term => {}
            (token, term) => {
                let what = format!("server {}: the highest token attached", dump.server);
                let token = token.map_or_else(|| ABSENT.to_owned(), |token| token.to_string());
                self.differ(SERVER, what, shown_term(term), token);
            }
        }
        for leg in dump.legs.iter().filter(|leg| leg.state == LegState::Live) {
            if !self.seen.insert(leg.leg) {
                self.differ(SERVER, format!("leg {}", leg.leg), "one server", "a second server carries it too");
            }
            if self.expected.orphans.contains(&leg.leg) {
                self.orphan(leg);
            } else if self.expected.live.contains(&leg.leg) {
                self.leg(dump, leg);
            } else {
                self.differ(SERVER, format!("leg {}", leg.leg), "not live", "live");
            }
        }
    }

    /// An orphan is kept and never touched, and nothing of it is stored.
    fn orphan(&mut self, leg: &LegDump) {
        if leg.token != remeet_protocol::Token::default() || leg.intent != 0 {
            self.differ(SERVER, format!("orphan {}: token", leg.leg), "never commanded", leg.token);
        }
        let stored = [
            ("control row", DATABASE, self.database.legs.contains_key(&leg.leg)),
            ("recovery key", DATABASE, self.database.keys.contains_key(&leg.leg)),
            ("records", DATABASE, self.database.records.contains_key(&leg.leg)),
            ("status", CACHE, self.cached.legs.contains_key(&leg.leg)),
            ("recovery key", CACHE, self.cached.keys.contains_key(&leg.leg)),
        ];
        for (what, place, _) in stored.into_iter().filter(|(.., there)| *there) {
            self.differ(place, format!("orphan {}: {what}", leg.leg), ABSENT, "it is stored");
        }
    }

    fn leg(&mut self, dump: &Dump, leg: &LegDump) {
        *self.findings.legs.entry(dump.server).or_default() += 1;
        *self.findings.records.entry(dump.server).or_default() += leg.records.len() as u64;
        let records: Records = leg
            .records
            .iter()
            .map(|held| (held.record.key(), Held { revision: held.revision, record: held.record.clone() }))
            .collect();
        self.server_keeps_count(leg, &records);
        self.control_row(dump, leg);
        self.stored_key(dump, leg, &records);
        let database = self.database;
        let none = Records::new();
        self.records(DATABASE, leg.leg, &records, database.records.get(&leg.leg).unwrap_or(&none));
        for domain in database.record_domains.get(&leg.leg).into_iter().flatten() {
            if *domain != i64::from(dump.domain.0) {
                self.differ(DATABASE, format!("leg {}, domain of its records", leg.leg), dump.domain, domain);
            }
        }
        self.cached_leg(dump, leg, &records);
        self.cached_key(leg.leg);
    }

    /// The truth must be true: the server's own mark fits its records.
    fn server_keeps_count(&mut self, leg: &LegDump, records: &Records) {
        let mut counted = remeet_protocol::record::Mark { revision: leg.mark.revision, ..Default::default() };
        records.values().for_each(|held| counted.count(&held.record, true));
        self.same(SERVER, &format!("leg {}, mark", leg.leg), &counted, &leg.mark);
    }

    fn control_row(&mut self, dump: &Dump, leg: &LegDump) {
        let what = format!("leg {}, control row", leg.leg);
        let database = self.database;
        let Some(stored) = database.legs.get(&leg.leg) else {
            return self.differ(DATABASE, what, "a row", ABSENT);
        };
        let truth = ControlRow {
            domain: dump.domain,
            server: dump.server,
            state: "in-meeting".to_owned(),
            cause: EndCause::None,
            epoch: leg.token.epoch,
            boot: Some(dump.boot),
            handle: Some(leg.handle),
            mark: leg.mark,
            group_marks: [leg.mark.revision; 4],
            intent: leg.intent,
            recover_first: false,
            quarantine: None,
        };
        self.same(DATABASE, &what, &truth, stored);
        let term = database.term.map(|(epoch, holder)| remeet_protocol::Token { epoch, holder });
        if term != Some(leg.token) {
            self.differ(SERVER, format!("leg {}, token", leg.leg), shown_term(database.term), leg.token);
        }
        let revision = database.table_revisions.get(&leg.leg).copied().unwrap_or(0);
        if revision == 0 || revision > dump.table_revision {
            let truth = format!("1 to {}", dump.table_revision);
            self.differ(DATABASE, format!("{what}, table_revision"), truth, revision);
        }
        match database.meetings.get(&leg.leg.meeting) {
            Some(domain) if *domain == dump.domain => {}
            domain => {
                let stored = domain.map_or_else(|| ABSENT.to_owned(), DomainId::to_string);
                self.differ(DATABASE, format!("meeting {}, domain", leg.leg.meeting), dump.domain, stored);
            }
        }
    }

    fn stored_key(&mut self, dump: &Dump, leg: &LegDump, records: &Records) {
        let what = format!("leg {}, recovery key", leg.leg);
        let database = self.database;
        let Some(stored) = database.keys.get(&leg.leg) else {
            return self.differ(DATABASE, what, "a key", ABSENT);
        };
        let Some(Record::Leg(row)) = records.get(&RecordKey::Leg).map(|held| &held.record) else {
            return self.differ(SERVER, format!("leg {}, leg row", leg.leg), "a row", ABSENT);
        };
        let truth = KeyRow {
            domain: dump.domain,
            server: dump.server,
            generation: leg.generation,
            number: row.number.to_string(),
            title: row.title.to_string(),
            creator: row.creator.to_string(),
            creator_name: row.creator_name.to_string(),
            // The server does not know these two: the server's acceptance proves the secret.
            made_at_ms: stored.made_at_ms,
            secret_sha256: stored.secret_sha256.clone(),
        };
        self.same(DATABASE, &what, &truth, stored);
        if stored.made_at_ms == 0 || stored.made_at_ms > row.started_at_ms {
            self.differ(
                DATABASE,
                format!("{what}, made_at_ms"),
                format!("up to {}", row.started_at_ms),
                stored.made_at_ms,
            );
        }
    }

    fn records(&mut self, place: &'static str, leg: LegId, truth: &Records, stored: &Records) {
        if truth == stored {
            return;
        }
        for (key, held) in truth {
            let what = format!("leg {leg}, {}", shown_key(key));
            match stored.get(key) {
                Some(there) => self.same(place, &what, held, there),
                None => self.differ(place, what, format!("revision {}", held.revision), ABSENT),
            }
        }
        for (key, held) in stored.iter().filter(|(key, _)| !truth.contains_key(*key)) {
            self.differ(place, format!("leg {leg}, {}", shown_key(key)), ABSENT, format!("revision {}", held.revision));
        }
    }

    fn cached_leg(&mut self, dump: &Dump, leg: &LegDump, records: &Records) {
        let what = format!("leg {}, status", leg.leg);
        let cached = self.cached;
        let Some(stored) = cached.legs.get(&leg.leg) else {
            return self.differ(CACHE, what, "a status", ABSENT);
        };
        let truth = CachedHead {
            domain: dump.domain,
            server: dump.server,
            boot: dump.boot,
            handle: leg.handle,
            state: MeetingState::InMeeting,
            mark: leg.mark,
        };
        self.same(CACHE, &what, &truth, &stored.head);
        self.cached_epoch(what, stored.epoch);
        self.records(CACHE, leg.leg, records, &stored.records);
    }

    /// An older epoch alone is no reason to write a cached value again (design §2); a newer one is wrong.
    fn cached_epoch(&mut self, what: String, epoch: Epoch) {
        if epoch == Epoch(0) || epoch > self.expected.epoch {
            self.differ(CACHE, format!("{what}, epoch"), format!("1 to {}", self.expected.epoch), epoch);
        }
    }

    fn cached_key(&mut self, leg: LegId) {
        let what = format!("leg {leg}, recovery key");
        let (database, cached) = (self.database, self.cached);
        let Some(stored) = cached.keys.get(&leg) else { return self.differ(CACHE, what, "a key", ABSENT) };
        // A key that the database lacks is reported already.
        let Some(truth) = database.keys.get(&leg) else { return };
        match &stored.whole {
            Some(whole) => self.same(CACHE, &what, truth, whole),
            None => {
                self.same(CACHE, &format!("{what}, generation"), &truth.generation, &stored.generation);
                self.same(CACHE, &format!("{what}, secret_sha256"), &truth.secret_sha256, &stored.secret_sha256);
            }
        }
        self.cached_epoch(what, stored.epoch);
    }

    // ---- what the play knows ----

    fn term(&mut self) {
        if self.database.term.map(|(epoch, _)| epoch) != Some(self.expected.epoch) {
            self.differ(DATABASE, "term, epoch".to_owned(), self.expected.epoch, shown_term(self.database.term));
        }
        for format in self.database.formats.iter().filter(|format| **format != 1) {
            self.differ(DATABASE, "format_version of a row".to_owned(), 1, format);
        }
        for (leg, op) in &self.database.open_intents {
            self.differ(DATABASE, format!("leg {leg}, intent {op}"), "a result", "none: it is open");
        }
        for (instance, number) in &self.database.commands_twice {
            let what = format!("client command {number} of instance {instance:016x}");
            self.differ(DATABASE, what, "one intent at most (rule 11)", "several");
        }
    }

    fn expectations(&mut self) {
        let (expected, database) = (self.expected, self.database);
        for leg in expected
            .live
            .iter()
            .chain(&expected.orphans)
            .filter(|leg| !self.seen.contains(leg))
            .copied()
            .collect::<Vec<_>>()
        {
            self.differ(SERVER, format!("leg {leg}"), "live", "no server carries it");
        }
        for (leg, cause) in &expected.ended {
            match database.legs.get(leg) {
                None => self.differ(DATABASE, format!("leg {leg}, control row"), "ended", ABSENT),
                Some(row) if row.state == "ended" && row.cause == *cause => {}
                Some(row) => {
                    let stored = format!("{} {:?}", row.state, row.cause);
                    self.differ(DATABASE, format!("leg {leg}, state"), format!("ended {cause:?}"), stored);
                }
            }
        }
    }

    // ---- from the sinks to the servers ----

    fn database_beyond_truth(&mut self) {
        let (expected, database) = (self.expected, self.database);
        for (leg, row) in &database.legs {
            self.server = Some(row.server);
            if row.state == "ended" {
                if !expected.ended.contains_key(leg) {
                    self.differ(DATABASE, format!("leg {leg}, state"), "not ended", format!("ended {:?}", row.cause));
                }
            } else if !self.seen.contains(leg) && !expected.live.contains(leg) && !expected.ended.contains_key(leg) {
                self.differ(DATABASE, format!("leg {leg}, state"), "no such leg", &row.state);
            }
        }
        self.server = None;
        for leg in database.keys.keys().filter(|leg| !database.legs.contains_key(leg)) {
            if !expected.orphans.contains(leg) {
                self.differ(DATABASE, format!("leg {leg}, recovery key"), ABSENT, "a key without a leg");
            }
        }
        for leg in database.records.keys().filter(|leg| !database.legs.contains_key(leg)) {
            if !expected.orphans.contains(leg) {
                self.differ(DATABASE, format!("leg {leg}, records"), ABSENT, "records without a leg");
            }
        }
        let meetings: BTreeSet<_> = database.legs.keys().map(|leg| leg.meeting).collect();
        for meeting in database.meetings.keys().filter(|meeting| !meetings.contains(meeting)) {
            self.differ(DATABASE, format!("meeting {meeting}"), ABSENT, "a meeting without a leg");
        }
    }

    fn cache_beyond_truth(&mut self) {
        let (expected, cached) = (self.expected, self.cached);
        let reported = |leg: &LegId| expected.live.contains(leg) || expected.orphans.contains(leg);
        for (leg, held) in cached.legs.iter().filter(|(leg, _)| !reported(leg)) {
            self.server = Some(held.head.server);
            self.differ(CACHE, format!("leg {leg}, status"), ABSENT, format!("{:?}", held.head.state));
        }
        self.server = None;
        for leg in cached.keys.keys().filter(|leg| !reported(leg)) {
            self.differ(CACHE, format!("leg {leg}, recovery key"), ABSENT, "a key");
        }
    }
}

fn shown_term(term: Option<(Epoch, Holder)>) -> String {
    term.map_or_else(|| ABSENT.to_owned(), |(epoch, holder)| format!("{epoch}:{holder}"))
}

fn shown_key(key: &RecordKey) -> String {
    match key {
        RecordKey::Leg => "meeting information".to_owned(),
        RecordKey::Terminal(number) => format!("terminal {number}"),
        RecordKey::Window(number, window) => format!("terminal {number}, window {window}"),
        RecordKey::Entry(number, key) => format!("terminal {number}, entry {key}"),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
